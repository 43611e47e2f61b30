//! The whole of Recado over real HTTP and real sockets, on every deployment: `embedded::delivery::every_device_…`.

recado_tests::end_to_end_suite!(embedded: recado_tests::harness::Embedded);
// Needs the local AWS and the packages that `cargo xtask test` makes.
#[cfg(feature = "aws")]
recado_tests::end_to_end_suite!(aws: recado_tests::harness::Stack);
