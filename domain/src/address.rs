//! A mail address as it is compared and remembered: by a hash, so that no store has to hold it in clear.
//!
//! Must not know: where addresses come from, and why somebody remembers one.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{hex, limits};

/// SHA-256 of a normalised address. The same for every spelling that reaches the same mailbox for certain, and for no other:
/// the domain is lower-cased and written as DNS has it (RFC 5891), the part before the `@` stays as it is. Its case may tell
/// mailboxes apart (RFC 5321, 2.4), and SES keeps it apart too ("Creating and verifying identities in Amazon SES").
///
/// A hash of something that can be guessed is a pseudonym, not a secret: whoever has it can still test whether a given address
/// is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey([u8; 32]);

/// Why a text is no address, or no key of one. Never the text itself: it may be personal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// No `name@domain`.
    #[error("is no e-mail address of up to {} bytes, such as `alice@example.com`", limits::EMAIL_BYTES)]
    Address,
    /// No key, as it is displayed.
    #[error("is no address key; it has 64 lower-case hexadecimal digits")]
    Key,
}

impl AddressKey {
    /// The key of a bare address, without a display name.
    ///
    /// # Errors
    /// When there is nothing before or after an `@`, or a space or a control character, or it is too long for an address.
    pub fn of(address: &str) -> Result<Self, NotAnAddress> {
        if address.len() > limits::EMAIL_BYTES || address.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(NotAnAddress::Address);
        }
        match address.rsplit_once('@') {
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
                let normalised = format!("{local}@{}", ascii_domain(domain).to_ascii_lowercase());
                Ok(Self(Sha256::digest(normalised).into()))
            }
            _ => Err(NotAnAddress::Address),
        }
    }

    /// The 256 bits, for a store.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// From the 256 bits of a store.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// A domain as DNS has it (RFC 5891). What cannot be one stays as it is.
pub fn ascii_domain(domain: &str) -> String {
    if domain.is_ascii() {
        return domain.to_owned();
    }
    url::Host::parse(domain).map_or_else(|_| domain.to_owned(), |host| host.to_string())
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressKey({self})")
    }
}

impl std::str::FromStr for AddressKey {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        hex::read(text).map(Self).ok_or(NotAnAddress::Key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(address: &str) -> AddressKey {
        AddressKey::of(address).unwrap()
    }

    #[test]
    fn the_case_of_a_domain_makes_no_other_address_and_that_of_a_name_may() {
        assert_eq!(key("alice@EXAMPLE.com"), key("alice@example.com"));
        assert_ne!(key("Alice@example.com"), key("alice@example.com"));
        assert_ne!(key("alice+recado@example.com"), key("alice@example.com"));
    }

    #[test]
    fn a_domain_is_the_same_in_either_writing() {
        assert_eq!(key("alice@Bücher.example"), key("alice@xn--bcher-kva.example"));
    }

    #[test]
    fn anybody_can_compute_a_key() {
        // Pinned, and documented for operators: `printf %s alice@example.com | sha256sum`.
        assert_eq!(key("alice@example.com").to_string(), "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976");
    }

    #[test]
    fn a_key_is_the_same_from_a_store_and_shows_only_its_hash() {
        let alice = key("alice@example.com");
        assert_eq!(AddressKey::from_bytes(alice.to_bytes()), alice);
        assert_eq!(format!("{alice:?}"), format!("AddressKey({alice})"));
    }

    #[test]
    fn the_longest_address_has_a_key() {
        let domain = "@example.com";
        let longest = format!("{}{domain}", "a".repeat(limits::EMAIL_BYTES - domain.len()));
        assert!(AddressKey::of(&longest).is_ok());
        assert_eq!(AddressKey::of(&format!("a{longest}")), Err(NotAnAddress::Address));
    }

    #[test]
    fn what_is_no_address_has_no_key() {
        let long = format!("{}@example.com", "a".repeat(limits::EMAIL_BYTES));
        for bad in ["", "alice", "@example.com", "alice@", "al ice@example.com", "alice@example.com\r\nBcc: x", long.as_str()] {
            assert_eq!(AddressKey::of(bad), Err(NotAnAddress::Address), "{bad:?}");
        }
    }

    #[test]
    fn upper_case_is_no_second_text_of_a_key() {
        let text = key("alice@example.com").to_string();
        assert_eq!(text.parse(), Ok(key("alice@example.com")));
        assert_eq!(text.to_uppercase().parse::<AddressKey>(), Err(NotAnAddress::Key));
    }

    proptest! {
        #[test]
        fn any_text_has_a_key_or_none(text in ".*") {
            if let Ok(key) = AddressKey::of(&text) {
                prop_assert_eq!(key.to_string().parse(), Ok(key));
                prop_assert_eq!(AddressKey::from_bytes(key.to_bytes()), key);
            }
        }

        #[test]
        fn any_text_is_a_key_or_none(text in "[0-9a-gA-F]{60,66}|.*") {
            if let Ok(key) = text.parse::<AddressKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
