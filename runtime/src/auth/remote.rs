//! Keys behind a URL: cached, fetched again when they may have rotated, and kept while the URL fails.
//!
//! One fetch is in flight at a time, whoever asks, and a fetch goes on when whoever asked hangs up: neither can be
//! used to hammer the issuer. Must not know: how a document is fetched ([`FetchJwks`]).

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ports::Clock;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::jwks;
use super::keys::{KeyError, KeySet, KeySource, VerifyingKey};

/// Why a document could not be fetched: for the operator; no credentials, no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchFailed(pub String);

/// Fetches one JWKS document.
pub trait FetchJwks: Send + Sync + 'static {
    /// The document as it is now. Ends by itself: implementations have a time-out and a limit of size.
    ///
    /// # Errors
    /// When there is none to be had.
    fn fetch(&self) -> impl Future<Output = Result<Vec<u8>, FetchFailed>> + Send;
}

/// How often keys are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteKeysConfig {
    /// The least time between two fetches, whatever tokens ask for and however the last one ended.
    pub min_interval: Duration,
    /// Keys older than this are fetched again before an unknown `kid` asks for it.
    pub max_age: Duration,
    /// Keys older than this are not used any more, however long the URL has failed: one of them may have been withdrawn.
    pub max_stale: Duration,
}

impl Default for RemoteKeysConfig {
    /// 10 s, 10 min and 24 h: a rotated key serves at once, and a withdrawn one for ten minutes, or for a day while the URL fails.
    fn default() -> Self {
        Self { min_interval: Duration::from_secs(10), max_age: Duration::from_secs(600), max_stale: Duration::from_secs(24 * 3600) }
    }
}

/// Keys behind a URL.
#[derive(Debug)]
pub struct RemoteKeys<F, C> {
    inner: Arc<Inner<F, C>>,
}

#[derive(Debug)]
struct Inner<F, C> {
    fetcher: F,
    clock: C,
    config: RemoteKeysConfig,
    cache: RwLock<Cache>,
    flight: Arc<Mutex<()>>,
}

#[derive(Debug, Clone, Default)]
struct Cache {
    /// What the last fetch that succeeded brought, and when it began.
    loaded: Option<(Arc<KeySet>, Timestamp)>,
    /// When the last fetch began, however it ended.
    attempted_at: Option<Timestamp>,
}

impl<F: FetchJwks, C: Clock> RemoteKeys<F, C> {
    /// Nothing is fetched before the first token asks.
    pub fn new(fetcher: F, clock: C, config: RemoteKeysConfig) -> Self {
        let (cache, flight) = (RwLock::default(), Arc::default());
        Self { inner: Arc::new(Inner { fetcher, clock, config, cache, flight }) }
    }
}

impl<F: FetchJwks, C: Clock> KeySource for RemoteKeys<F, C> {
    async fn key(&self, kid: Option<&str>) -> Result<Arc<VerifyingKey>, KeyError> {
        let found = self.inner.usable().and_then(|(keys, loaded_at)| keys.find(kid).map(|key| (key, loaded_at)));
        let Some((key, loaded_at)) = found else {
            // Nothing to serve meanwhile: wait for the fetch in flight, or be it.
            let turn = self.inner.flight.clone().lock_owned().await;
            return self.inner.clone().look_again(kid, turn).await;
        };
        if elapsed(loaded_at, self.inner.clock.now()) < self.inner.config.max_age {
            return Ok(key);
        }
        // Too old: one caller fetches, the others are served what there is; and so is that one when the URL fails.
        match self.inner.flight.clone().try_lock_owned() {
            Ok(turn) => match self.inner.clone().look_again(kid, turn).await {
                Err(KeyError::Unavailable) => Ok(key),
                answer => answer,
            },
            Err(_) => Ok(key),
        }
    }
}

impl<F: FetchJwks, C: Clock> Inner<F, C> {
    fn cached(&self) -> Cache {
        self.cache.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is, and when it was fetched; nothing where that is too long ago.
    fn usable(&self) -> Option<(Arc<KeySet>, Timestamp)> {
        self.cached().loaded.filter(|(_, at)| !self.is_stale(*at))
    }

    /// A clock that was set back makes nothing stale; [`elapsed`] has it fetched again.
    fn is_stale(&self, loaded_at: Timestamp) -> bool {
        let age = Duration::try_from(self.clock.now().duration_since(loaded_at)).unwrap_or(Duration::ZERO);
        age >= self.config.max_stale
    }

    /// Fetches, unless that was done a moment ago, and answers from what there is then. Holds the turn until the fetch ends.
    async fn look_again(self: Arc<Self>, kid: Option<&str>, turn: OwnedMutexGuard<()>) -> Result<Arc<VerifyingKey>, KeyError> {
        let inner = self.clone();
        // In a task of its own: a caller that is dropped here (its client hung up) must not take the fetch with it.
        let fetch = tokio::spawn(async move {
            inner.fetch_if_due(turn).await;
        });
        if fetch.await.is_err() {
            return Err(KeyError::Unavailable);
        }
        match self.usable() {
            Some((keys, _)) => keys.find(kid).ok_or(KeyError::Unknown),
            None => Err(KeyError::Unavailable),
        }
    }

    async fn fetch_if_due(&self, turn: OwnedMutexGuard<()>) {
        let now = self.clock.now();
        let cached = self.cached();
        // The turn may have come after somebody else's fetch.
        if cached.attempted_at.is_some_and(|at| elapsed(at, now) < self.config.min_interval) {
            return;
        }
        let fetched = self.fetcher.fetch().await.and_then(|json| jwks::parse(&json).map_err(|error| FetchFailed(error.to_string())));
        let mut next = Cache { attempted_at: Some(now), ..cached };
        match fetched {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "jwks document fetched");
                metrics::counter!("recado_jwks_fetches_total", "outcome" => "fetched").increment(1);
                next.loaded = Some((Arc::new(keys), now));
            }
            Err(error) => {
                let serving_stale = next.loaded.as_ref().is_some_and(|(_, at)| !self.is_stale(*at));
                tracing::warn!(%error, serving_stale, "jwks document could not be fetched");
                metrics::counter!("recado_jwks_fetches_total", "outcome" => "failed").increment(1);
            }
        }
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = next;
        drop(turn);
    }
}

/// A clock that was set back must not keep keys for ever: then everything is long ago.
fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::MAX)
}
