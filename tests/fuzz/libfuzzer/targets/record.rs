#![no_main]
//! See `recado_fuzz::record`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::record(bytes));
