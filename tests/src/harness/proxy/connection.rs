//! Connections that can be reset from within: their peer sees a reset (RST), not an end.
//!
//! Must not know: what is said over them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Resets one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Reset(Arc<AtomicBool>);

impl Reset {
    /// Whatever is written from now on is not.
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Accepts connections, or resets each at once while `refusing`.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) refusing: Arc<AtomicBool>,
}

impl Listener for Door {
    type Io = Resettable;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Resettable, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if self.refusing.load(Ordering::Acquire) {
                stream.set_zero_linger().ok();
                continue;
            }
            // A small answer must not wait for an acknowledgement. What cannot be set costs milliseconds.
            stream.set_nodelay(true).ok();
            return (Resettable { stream, reset: Reset::default() }, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Reset {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().reset.clone()
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Resettable {
    stream: TcpStream,
    reset: Reset,
}

impl Resettable {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }

    /// An error once it is to be reset; whoever speaks over it drops it then, which with no linger sends an RST.
    fn holds(&self) -> io::Result<()> {
        if !self.reset.0.load(Ordering::Acquire) {
            return Ok(());
        }
        self.stream.set_zero_linger()?;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Resettable {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.holds()?;
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.holds()?;
        self.stream().poll_shutdown(context)
    }
}
