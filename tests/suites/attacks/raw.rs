//! A socket without a library: bytes that no honest client sends.

use anyhow::{Context, ensure};
use recado_tests::harness::DEADLINE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An open WebSocket, byte by byte (RFC 6455, 5.2).
pub(crate) struct RawSocket {
    stream: TcpStream,
}

/// The first byte of a frame that is a message of its own.
pub(crate) const FINAL_TEXT: u8 = 0x81;
pub(crate) const FINAL_BINARY: u8 = 0x82;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

impl RawSocket {
    /// Opens one at an address, with a token.
    pub(crate) async fn open(address: &str, token: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /ws?token={token}&protocol=recado.v1 HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, stream.read_u8()).await.context("no answer to the upgrade")??);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Ok(Self { stream })
    }

    /// Sends a frame, masked as a client's must be. A server that has closed meanwhile takes no more: that is what
    /// [`RawSocket::closed`] is for.
    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = head(first, 0x80, payload.len());
        // A mask of zeros leaves the payload as it is.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.send_bytes(&frame).await;
    }

    /// Sends any bytes.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// Reads until the server closes; answers its code. `None` where it ends without one.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<Option<u16>> {
        timeout(DEADLINE, async {
            loop {
                let Ok((first, payload)) = self.frame().await else { return Ok(None) };
                if first == 0x88 {
                    return Ok(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
                }
            }
        })
        .await
        .context("it was not closed")?
    }

    async fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(1 << 20)];
        self.stream.read_exact(&mut payload).await?;
        Ok((first, payload))
    }
}

/// The head of a frame; `mask` is 0x80 where the payload is masked.
pub(crate) fn head(first: u8, mask: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(mask | length as u8),
        126..65_536 => {
            head.push(mask | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}
