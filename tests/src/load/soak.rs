//! An hour's worth of events and connections, done faster, and the memory of the server meanwhile.
//!
//! Must not know: what counts as flat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::steady::throughput;
use super::{Growth, growth, resident_mib};
use crate::harness::{Endpoints, Recado, Tested};

/// What an hour brings.
#[derive(Debug, Clone, Copy)]
pub struct SoakPlan {
    /// Users online all the time.
    pub users: usize,
    /// Events.
    pub events: usize,
    /// Clients that connect, resume and leave again.
    pub connections: usize,
    /// How often the memory is looked at.
    pub sample_every: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Soak {
    /// How long it took.
    pub took: Duration,
    /// The memory of the server in MiB, at even distances.
    pub samples: Vec<f64>,
    /// Of the second half of the samples.
    pub second_half: Growth,
}

/// Publishes all events to users who are online, while others come and go, spread over the whole of it.
///
/// # Errors
/// When something is refused, or does not arrive.
pub async fn soak(recado: &Recado, plan: SoakPlan) -> anyhow::Result<Soak> {
    /// One run of events after the other, so that visits can keep their pace.
    const LEGS: [&str; 10] = ["soak0", "soak1", "soak2", "soak3", "soak4", "soak5", "soak6", "soak7", "soak8", "soak9"];
    let started = Instant::now();
    let working = async {
        for leg in LEGS {
            let events = throughput(recado, leg, plan.users, plan.events / LEGS.len());
            let (published, visited) = tokio::join!(events, visits(recado, plan.connections / LEGS.len()));
            published?;
            visited?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(working);
    let (mut samples, mut tick) = (Vec::new(), tokio::time::interval(plan.sample_every));
    loop {
        tokio::select! {
            worked = &mut working => break worked?,
            _ = tick.tick() => samples.push(resident_mib(recado)?),
        }
    }
    let second_half = growth(&samples[samples.len() / 2..]);
    Ok(Soak { took: started.elapsed(), samples, second_half })
}

/// So many visits, four at the same time.
async fn visits(recado: &Endpoints, count: usize) -> Tested {
    let left = Arc::new(AtomicUsize::new(0));
    let mut visitors = JoinSet::new();
    for visitor in 0..4 {
        let (recado, left) = (recado.clone(), left.clone());
        visitors.spawn(async move {
            let mut cursor = None;
            while left.fetch_add(1, Ordering::Relaxed) < count {
                let mut client = recado.connect(&format!("visitor{visitor}")).await?;
                cursor = Some(client.sync(cursor.as_deref(), &[]).await?.cursor);
                client.leave().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = visitors.join_next().await {
        done??;
    }
    Ok(())
}
