//! What a client says as it opens a socket, before there is one: the query of its request, and the page it comes from.
//!
//! Nothing of it is verified here: whose socket it becomes, a token or a ticket says. Must not know: any gateway, HTTP.

use std::fmt;

use crate::connection::{Protocol, SUBPROTOCOL};
use crate::limits;

/// What a client says who it is with. Not verified.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A token: `?token=`, or a bearer token, at most [`limits::TOKEN_BYTES`].
    Token(String),
    /// A connection ticket: `?ticket=`, at most [`limits::CLIENT_TEXT_BYTES`].
    Ticket(String),
}

impl fmt::Debug for Credential {
    /// Its kind alone: neither must end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Ticket(_) => "Ticket",
        })
    }
}

/// What a client declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Who it says it is.
    pub credential: Option<Credential>,
    /// [`Protocol::Recado`] where `?protocol=` names [`SUBPROTOCOL`].
    pub protocol: Protocol,
    /// `?device=`, at most [`limits::CLIENT_TEXT_BYTES`], without control characters, and not empty.
    pub device: Option<String>,
}

impl Declared {
    /// Reads the pairs of a query, decoded, and the header `Authorization`, which clients other than browsers can set.
    ///
    /// # Errors
    /// What does not hold (400); shows no value.
    pub fn read(query: impl IntoIterator<Item = (String, String)>, authorization: Option<&str>) -> Result<Self, String> {
        let (mut token, mut ticket, mut device, mut protocol) = (None, None, None, None);
        for (name, value) in query {
            let (slot, limit) = match name.as_str() {
                "token" => (&mut token, limits::TOKEN_BYTES),
                "ticket" => (&mut ticket, limits::CLIENT_TEXT_BYTES),
                "device" => (&mut device, limits::CLIENT_TEXT_BYTES),
                "protocol" => (&mut protocol, limits::CLIENT_TEXT_BYTES),
                _ => continue,
            };
            if value.len() > limit {
                return Err(format!("`{name}` is {} bytes, the limit is {limit}", value.len()));
            }
            if slot.replace(value).is_some() {
                return Err(format!("`{name}` is given twice; give it once"));
            }
        }
        if let Some(bearer) = bearer(authorization)?
            && token.replace(bearer).is_some()
        {
            return Err("a token is given in the query and in the header `Authorization`; give it once".to_owned());
        }
        let credential = match (token, ticket) {
            (Some(_), Some(_)) => return Err("a token and a ticket are given; give one of them".to_owned()),
            (token, ticket) => token.map(Credential::Token).or(ticket.map(Credential::Ticket)),
        };
        if device.as_ref().is_some_and(|device: &String| device.contains(char::is_control)) {
            return Err("`device` has a control character; remove it".to_owned());
        }
        let protocol = match protocol.as_deref() {
            None => Protocol::Plain,
            Some(SUBPROTOCOL) => Protocol::Recado,
            Some(_) => return Err(format!("`protocol` is none this server speaks; it knows {SUBPROTOCOL}")),
        };
        Ok(Self { credential, protocol, device: device.filter(|device| !device.is_empty()) })
    }
}

/// The token of `Bearer …`. Other schemes are somebody else's, a proxy's for example.
fn bearer(authorization: Option<&str>) -> Result<Option<String>, String> {
    let Some((scheme, token)) = authorization.and_then(|text| text.split_once(' ')) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim();
    if token.len() > limits::TOKEN_BYTES {
        return Err(format!("the token in `Authorization` is {} bytes, the limit is {}", token.len(), limits::TOKEN_BYTES));
    }
    Ok(Some(token.to_owned()))
}

/// Which pages may open a socket. A request without `Origin` comes from no browser and may always.
///
/// This is no authentication, the token is: it keeps a page that got hold of a token from using it elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Besides the server's own: each as a browser sends it, such as `https://app.example.com`; `*` is any.
    pub allowed: Vec<String>,
    /// Pages of any port of this machine: for development.
    pub loopback: bool,
}

impl Origins {
    /// Judges the headers `Origin` and `Host`.
    pub fn admit(&self, origin: Option<&str>, own_host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let host = origin.split_once("://").map(|(_, host)| host);
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
            || host.zip(own_host).is_some_and(|(host, own)| host.eq_ignore_ascii_case(own))
            || (self.loopback && host.is_some_and(names_this_machine))
    }
}

/// Whether a text is what [`Origins::allowed`] holds: what a browser sends as `Origin`, or `*`.
pub fn is_origin(text: &str) -> bool {
    let exact = |url: url::Url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text.trim_end_matches('/').to_ascii_lowercase()
    };
    text == "*" || url::Url::parse(text).is_ok_and(exact)
}

/// Whether an authority (`host` or `host:port`) names this machine: `localhost` or a loopback address.
pub fn names_this_machine(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(given: &[(&str, &str)]) -> Result<Declared, String> {
        Declared::read(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), None)
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_it_is_allowed() {
        let (origin, host) = (Some("https://evil.example"), Some("recado.example"));
        assert!(!Origins { allowed: Vec::new(), loopback: true }.admit(origin, host));
        assert!(Origins { allowed: vec!["https://evil.example/".to_owned()], loopback: false }.admit(origin, host));
        assert!(Origins { allowed: vec!["*".to_owned()], loopback: false }.admit(origin, host));
    }

    #[test]
    fn no_origin_and_the_own_origin_are_admitted() {
        assert!(Origins::default().admit(None, Some("a.example")));
        assert!(Origins::default().admit(Some("https://A.example:8443"), Some("a.example:8443")));
        assert!(!Origins::default().admit(Some("null"), Some("a.example")));
        assert!(!Origins::default().admit(Some(""), None));
    }

    #[test]
    fn loopback_pages_are_admitted_in_development_only() {
        let development = Origins { allowed: Vec::new(), loopback: true };
        for origin in ["http://localhost:5173", "http://127.0.0.1", "http://[::1]:8420"] {
            assert!(development.admit(Some(origin), Some("a.example")), "{origin}");
            assert!(!Origins::default().admit(Some(origin), Some("a.example")));
        }
        assert!(!development.admit(Some("http://localhost.evil.example"), Some("a.example")));
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["https://app.example.com", "https://app.example.com/", "http://localhost:5173", "*"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["app.example.com", "https://app.example.com/path", "https://app.example.com:443", "ftp://a.example", ""] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        for name in ["token", "ticket", "device", "protocol"] {
            let problem = read(&[(name, SUBPROTOCOL), (name, SUBPROTOCOL)]).unwrap_err();
            assert!(problem.contains(name), "{problem}");
        }
    }

    #[test]
    fn a_query_is_read_and_what_is_unknown_ignored() {
        let declared = read(&[("token", "t"), ("device", "phone"), ("protocol", "recado.v1"), ("x", "1"), ("x", "2")]).unwrap();
        assert_eq!(declared.credential, Some(Credential::Token("t".to_owned())));
        assert_eq!(declared.device.as_deref(), Some("phone"));
        assert_eq!(declared.protocol, Protocol::Recado);
    }

    #[test]
    fn a_bearer_token_is_a_token_and_other_schemes_are_not() {
        let token = |header| Declared::read([], Some(header)).unwrap().credential;
        let abc = Some(Credential::Token("abc".to_owned()));
        assert_eq!(token("Bearer abc"), abc);
        assert_eq!(token("bearer  abc "), abc);
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer"), None);
        let twice = Declared::read([("token".to_owned(), "a".to_owned())], Some("Bearer a")).unwrap_err();
        assert!(twice.contains("give it once"), "{twice}");
    }

    #[test]
    fn a_ticket_is_no_token_and_one_of_them_is_enough() {
        assert_eq!(read(&[("ticket", "t")]).unwrap().credential, Some(Credential::Ticket("t".to_owned())));
        assert_eq!(read(&[]).unwrap().credential, None);
        let problem = read(&[("ticket", "t"), ("token", "t")]).unwrap_err();
        assert!(problem.contains("one of them"), "{problem}");
        let problem = Declared::read([("ticket".to_owned(), "t".to_owned())], Some("Bearer t")).unwrap_err();
        assert!(problem.contains("one of them"), "{problem}");
    }

    #[test]
    fn a_token_above_the_limit_is_refused_without_repeating_it() {
        let long = "s".repeat(limits::TOKEN_BYTES + 1);
        for problem in [read(&[("token", &long)]), Declared::read([], Some(&format!("Bearer {long}")))] {
            let problem = problem.unwrap_err();
            assert!(problem.contains("8193") && !problem.contains("ss"), "{problem}");
        }
    }

    #[test]
    fn each_value_may_be_as_long_as_its_limit() {
        let limits = [("token", limits::TOKEN_BYTES), ("ticket", limits::CLIENT_TEXT_BYTES), ("device", limits::CLIENT_TEXT_BYTES)];
        for (name, limit) in limits {
            assert!(read(&[(name, &"s".repeat(limit))]).is_ok(), "{name}");
            let problem = read(&[(name, &"s".repeat(limit + 1))]).unwrap_err();
            assert_eq!(problem, format!("`{name}` is {} bytes, the limit is {limit}", limit + 1));
        }
        let bearer = |bytes: usize| Declared::read([], Some(&format!("Bearer {}", "s".repeat(bytes))));
        assert!(bearer(limits::TOKEN_BYTES).is_ok());
        assert!(bearer(limits::TOKEN_BYTES + 1).is_err());
    }

    #[test]
    fn a_device_is_text_for_people() {
        assert_eq!(read(&[("device", "")]).unwrap().device, None);
        assert!(read(&[("device", "a\nb")]).unwrap_err().contains("control character"));
        assert!(read(&[("protocol", "recado.v2")]).unwrap_err().contains("it knows recado.v1"));
        assert_eq!(read(&[]).unwrap().protocol, Protocol::Plain);
    }

    #[test]
    fn this_machine_is_named_with_or_without_a_port() {
        for own in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8420", "[::1]", "[::1]:8420"] {
            assert!(names_this_machine(own), "{own}");
        }
        for other in ["localhost.example", "example.com:80", "127.0.0.2", "localhost:x", "::1", "[::2]", ""] {
            assert!(!names_this_machine(other), "{other}");
        }
    }

    #[test]
    fn what_is_declared_shows_neither_token_nor_ticket() {
        for name in ["token", "ticket"] {
            assert_eq!(format!("{:?}", read(&[(name, "secret")]).unwrap().credential).to_lowercase(), format!("some({name})"));
            assert!(!format!("{:?}", read(&[(name, "secret")]).unwrap()).contains("secret"));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_requests_are_read_or_refused(pairs in proptest::collection::vec(("token|ticket|device|protocol|x", ".*"), 0..4), header in ".*") {
            // Either answer is fine; what counts is that there is one.
            Declared::read(pairs, Some(&header)).ok();
            Origins { allowed: vec![header.clone()], loopback: true }.admit(Some(&header), Some(&header));
        }
    }
}
