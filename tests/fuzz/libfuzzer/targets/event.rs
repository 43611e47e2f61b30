#![no_main]
//! See `recado_fuzz::event`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::event(bytes));
