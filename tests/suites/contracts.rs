//! Every contract on every backend: `memory::inbox::append_is_insert_if_absent`.

recado_tests::contract_suite!(memory: recado_tests::contracts::Memory);
recado_tests::contract_suite!(embedded: recado_tests::contracts::Embedded);
// Needs the local AWS that `cargo xtask test` starts.
#[cfg(feature = "aws")]
recado_tests::contract_suite!(aws: recado_tests::contracts::Aws);
