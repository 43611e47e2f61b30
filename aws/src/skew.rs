//! How far this machine's clock is from that of AWS (R6).
