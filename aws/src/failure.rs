//! What an error of an SDK means to the rooms: the one place that tells transient from permanent.
