//! Fetches a JWKS document over HTTP: https, or http on this machine alone; no redirects; bounded in time and size.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

use super::remote::{FetchFailed, FetchJwks};

/// The most a document may have, in bytes; large ones of the field have some ten kilobytes.
pub const JWKS_BYTES: usize = 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the whole exchange. A `$connect` waits for it, and has 29 s.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a URL cannot be fetched from.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJwksUrl {
    /// Not a URL.
    #[error("is no URL: {0}")]
    Url(String),
    /// Somebody on the way could put in keys of their own.
    #[error("is neither https nor http on this machine (127.0.0.1, [::1], localhost)")]
    Insecure,
    /// It would end up in logs.
    #[error("has a user name or password; a JWKS document is public")]
    Credentials,
    /// The TLS roots of this machine cannot be read, or the like.
    #[error("no HTTP client could be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// Fetches from one URL.
#[derive(Debug, Clone)]
pub struct HttpJwks {
    client: Client,
    url: Url,
}

impl HttpJwks {
    /// Checks the URL; fetches nothing yet.
    ///
    /// # Errors
    /// When the URL is not safe to take keys from.
    pub fn new(url: &str) -> Result<Self, InvalidJwksUrl> {
        let url = Url::parse(url).map_err(|error| InvalidJwksUrl::Url(error.to_string()))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && is_this_machine(&url)) {
            return Err(InvalidJwksUrl::Insecure);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidJwksUrl::Credentials);
        }
        let client = Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build()?;
        Ok(Self { client, url })
    }
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl FetchJwks for HttpJwks {
    async fn fetch(&self) -> Result<Vec<u8>, FetchFailed> {
        let failed = |error: reqwest::Error| FetchFailed(error.without_url().to_string());
        let mut response = self.client.get(self.url.clone()).header("accept", "application/json").send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(FetchFailed(format!("answered {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > JWKS_BYTES {
                return Err(FetchFailed(format!("the document has more than {JWKS_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Serves one answer and says where.
    async fn serve_once(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = socket.read(&mut request).await.unwrap();
            assert!(read > 0);
            // A client that has read enough hangs up: not this side's concern.
            if socket.write_all(&answer).await.is_ok() {
                socket.shutdown().await.ok();
            }
        });
        url
    }

    #[test]
    fn only_https_and_this_machine_are_taken_keys_from() {
        for url in ["https://issuer.example/jwks", "http://127.0.0.1:9/jwks", "http://[::1]/jwks", "http://localhost:8080/jwks"] {
            assert!(HttpJwks::new(url).is_ok(), "{url}");
        }
        for url in ["http://issuer.example/jwks", "http://127.0.0.1.example/jwks", "ftp://127.0.0.1/", "file:///jwks", "jwks", ""] {
            assert!(HttpJwks::new(url).is_err(), "{url}");
        }
        assert!(matches!(HttpJwks::new("https://a:b@issuer.example/"), Err(InvalidJwksUrl::Credentials)));
    }

    #[tokio::test]
    async fn a_document_is_fetched() {
        let url = serve_once(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}".to_vec()).await;
        assert_eq!(HttpJwks::new(&url).unwrap().fetch().await.unwrap(), b"{\"keys\":[]}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let url = serve_once(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        assert_eq!(HttpJwks::new(&url).unwrap().fetch().await, Err(FetchFailed("answered 302".to_owned())));
    }

    #[tokio::test]
    async fn a_document_may_have_a_mebibyte_and_not_a_byte_more() {
        assert_eq!(JWKS_BYTES, 1_048_576);
        for (bytes, is_taken) in [(JWKS_BYTES, true), (JWKS_BYTES + 1, false)] {
            let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            answer.resize(answer.len() + bytes, b' ');
            let url = serve_once(answer).await;
            let fetched = HttpJwks::new(&url).unwrap().fetch().await.map(|document| document.len());
            assert_eq!(fetched.as_ref().is_ok_and(|length| *length == bytes), is_taken, "{fetched:?}");
        }
    }

    #[tokio::test]
    async fn a_document_without_end_is_given_up() {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(JWKS_BYTES + 1024, b' ');
        let url = serve_once(answer).await;
        let error = HttpJwks::new(&url).unwrap().fetch().await.unwrap_err();
        assert!(error.0.contains("more than"), "{error}");
    }
}
