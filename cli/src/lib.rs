//! The recado command: up, publish, listen, token, dead-letters.
