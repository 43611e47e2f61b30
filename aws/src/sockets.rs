//! Open sockets behind API Gateway.
