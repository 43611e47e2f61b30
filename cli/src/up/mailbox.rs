//! The mailbox of captured mail, as pages. Mounted on loopback only, and where no SMTP server is set.
//!
//! A mail is hostile: its HTML is shown in a frame without rights, under a policy that loads nothing.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use mail_parser::{Message, MessageParser};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use recado_domain::failure::Failure;
use recado_embedded::Mailbox;
use recado_embedded::mailbox::{CapturedMail, MailSummary};
use recado_http_api::Problem;
use serde::Serialize;

use super::page::html;

/// Mails on the list.
const LISTED: usize = 50;

/// The mail's own styles and nothing else: no script, no request, not even when it is opened outside the frame.
const MAIL_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The routes.
pub(super) fn router(mailbox: Mailbox) -> Router {
    Router::new()
        .route("/mail", get(list))
        .route("/mail.json", get(list_json))
        .route("/mail/{id}", get(show))
        .route("/mail/{id}/html", get(show_html))
        .route("/mail/{id}/text", get(show_text))
        .route("/mail/{id}/source", get(show_source))
        .with_state(mailbox)
}

#[derive(Serialize)]
struct Row {
    id: u64,
    to: String,
    subject: String,
    sent_at: String,
}

impl From<MailSummary> for Row {
    fn from(mail: MailSummary) -> Self {
        let MailSummary { id, to, subject, sent_at } = mail;
        Self { id, to, subject, sent_at: format!("{sent_at:.0}") }
    }
}

#[derive(Serialize)]
struct Listed {
    mails: Vec<Row>,
}

async fn newest(mailbox: &Mailbox) -> Result<Vec<Row>, Response> {
    let mails = mailbox.list(None, LISTED).await.map_err(|failure| unavailable(&failure))?;
    Ok(mails.into_iter().map(Row::from).collect())
}

async fn list(State(mailbox): State<Mailbox>) -> Result<Response, Response> {
    Ok(page(&context! { mails => Value::from(Serde(&newest(&mailbox).await?)) }))
}

async fn list_json(State(mailbox): State<Mailbox>) -> Result<Json<Listed>, Response> {
    Ok(Json(Listed { mails: newest(&mailbox).await? }))
}

async fn show(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Result<Response, Response> {
    let mail = captured(&mailbox, id).await?;
    Ok(page(&context! { mail => Value::from(Serde(&Row::from(mail.summary))) }))
}

async fn show_html(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Result<Response, Response> {
    let mail = captured(&mailbox, id).await?;
    let body = part(&mail, |message| message.body_html(0).map(String::from));
    Ok(served("text/html; charset=utf-8", MAIL_POLICY, body.into_bytes()))
}

async fn show_text(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Result<Response, Response> {
    let mail = captured(&mailbox, id).await?;
    let body = part(&mail, |message| message.body_text(0).map(String::from));
    Ok(served("text/plain; charset=utf-8", MAIL_POLICY, body.into_bytes()))
}

async fn show_source(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Result<Response, Response> {
    let mail = captured(&mailbox, id).await?;
    Ok(served("text/plain; charset=utf-8", MAIL_POLICY, mail.message))
}

async fn captured(mailbox: &Mailbox, id: u64) -> Result<CapturedMail, Response> {
    let mail = mailbox.get(id).await.map_err(|failure| unavailable(&failure))?;
    mail.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no mail of this number.").into_response())
}

fn part(mail: &CapturedMail, of: impl FnOnce(&Message<'_>) -> Option<String>) -> String {
    MessageParser::default().parse(&mail.message).as_ref().and_then(of).unwrap_or_default()
}

fn served(media_type: &'static str, policy: &'static str, body: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

fn unavailable(failure: &Failure) -> Response {
    tracing::warn!(reason = failure.reason(), "the mailbox could not be read");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "try-again", "The store did not answer; try again.").into_response()
}

fn page(values: &Value) -> Response {
    let mut pages = Environment::new();
    // The name's ending switches on HTML escaping.
    let rendered = pages
        .add_template("mailbox.html", include_str!("../../assets/mailbox.html"))
        .and_then(|()| pages.get_template("mailbox.html"))
        .and_then(|template| template.render(values));
    match rendered {
        Ok(text) => html(text),
        Err(error) => {
            tracing::error!(%error, "the mailbox page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
