//! What each long-running process of Recado needs: consumer loop, leases, drain, backoff, tokens, telemetry.
