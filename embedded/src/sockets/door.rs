//! Where connections come in: a listener that holds no more of them than it was told to, and lets go of each gently.
//!
//! Must not know: what is spoken over them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::meter::Meter;

/// A TCP listener with a bounded number of connections: one more waits in the system's queue.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Door {
    /// Lets in up to `max` connections at the same time.
    pub fn new(listener: TcpListener, max: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))) }
    }

    /// The next connection, as soon as there is a place for it.
    pub(super) async fn accept(&mut self) -> Guest {
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, _) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps nagle's algorithm");
        }
        Guest { stream: Some(stream), place, stuck: None, meter: Meter::new() }
    }
}

/// A connection that came in through a [`Door`].
///
/// A socket closed with unread bytes resets the connection, and the reset may overtake the answer that says why
/// (RFC 9112, 9.6). So what still comes in is read and thrown away for a moment.
#[derive(Debug)]
pub(super) struct Guest {
    /// Taken when dropped.
    stream: Option<TcpStream>,
    place: Option<OwnedSemaphorePermit>,
    /// When a peer that takes nothing of what is written is given up; `None` while it takes it.
    stuck: Option<Pin<Box<Sleep>>>,
    /// How much it may send.
    pub(super) meter: Meter,
}

/// How long a peer may take nothing of an answer. Longer than what sockets allow for a frame, which says why.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

impl Guest {
    /// The outcome of a write, or an error when writes have been stuck for too long.
    fn or_given_up(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(TAKE_WITHIN)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// How long, and how many bytes, a connection that we closed is still listened to.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1024 * 1024;

impl Drop for Guest {
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(linger(stream, self.place.take()));
        }
    }
}

async fn linger(mut stream: TcpStream, place: Option<OwnedSemaphorePermit>) {
    let leave = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, leave).await {
        tracing::trace!(%error, "the peer was gone already");
    }
    drop(place);
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Some(stream) => std::task::ready!(Pin::new(stream).poll_read(cx, buffer)),
            None => Err(gone()),
        };
        Poll::Ready(read.and_then(|()| self.meter.read(buffer.filled().len() - before)))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, bytes),
            None => Poll::Ready(Err(gone())),
        };
        self.or_given_up(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            None => Poll::Ready(Err(gone())),
        };
        self.or_given_up(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
