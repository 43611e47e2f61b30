//! See `recado_fuzz::cursor`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::cursor(bytes));
