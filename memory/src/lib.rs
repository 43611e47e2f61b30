//! Every port of Recado in memory: for unit tests of the rooms and for simulation.
