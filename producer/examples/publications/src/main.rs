//! The publications example as a program: on loopback, with a running Recado. Must not know: what the routes do.

mod app;

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use recado_producer::{Buffer, BufferedPublisher, HttpBus, Producer};
use tracing_subscriber::EnvFilter;

/// A small publications application that notifies through Recado.
#[derive(Parser)]
struct Options {
    /// The port on 127.0.0.1.
    #[arg(long, default_value_t = 8430)]
    port: u16,
    /// Where Recado runs.
    #[arg(long, default_value = "http://127.0.0.1:8420")]
    recado: String,
    /// The publish key, where Recado asks for one.
    #[arg(long, env = "RECADO_PUBLISH_KEY", hide_env_values = true)]
    publish_key: Option<String>,
    /// Who may grant permissions, beside a publication's owner.
    #[arg(long = "administrator", default_value = "admin")]
    administrators: Vec<String>,
}

/// How long publishing may take after the last request.
const FLUSH: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();

    let bus = HttpBus::new(&options.recado, options.publish_key.as_deref())?;
    let publisher = Arc::new(BufferedPublisher::start(Producer::new(bus), Buffer::default()));
    let router = app::router(publisher.clone(), options.administrators);

    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), options.port);
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, recado = options.recado, "publications are served");
    axum::serve(listener, router).with_graceful_shutdown(stopped()).await?;

    let left = publisher.shutdown(FLUSH).await;
    tracing::info!(unpublished = left.unpublished.len(), "stopped");
    Ok(())
}

/// Until somebody presses Ctrl-C.
async fn stopped() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "cannot listen for ctrl-c; stopping now");
    }
}
