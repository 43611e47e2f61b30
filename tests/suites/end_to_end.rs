//! The whole of Recado over real HTTP and real sockets, on every deployment: `embedded::delivery::every_device_…`.

recado_tests::end_to_end_suite!(embedded: recado_tests::harness::Embedded);
