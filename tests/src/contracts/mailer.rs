//! What every [`Mailer`] keeps: it hands over what it was given, each time it is asked.
#![expect(missing_docs, reason = "the names are sentences")]

use recado_domain::ports::{Mailer, OutgoingMail};

use super::Backend;
use super::samples::{alice, entry};

fn mail(subject: &str) -> OutgoingMail {
    let message = format!("From: recado@example.com\r\nTo: alice@example.com\r\nSubject: {subject}\r\n\r\nOl\u{e1}\r\n.\r\n").into_bytes();
    let (from, to) = ("recado@example.com".to_owned(), "alice@example.com".to_owned());
    OutgoingMail { delivery: entry(&alice(), "a").key(), from, to, message }
}

pub async fn a_mail_is_handed_over_byte_for_byte<B: Backend>(backend: &B) {
    let sent = mail("hello");
    backend.mailer().send(&sent).await.unwrap();
    assert_eq!(backend.mails().await, [(sent.from, sent.to, sent.message)]);
}

pub async fn each_mail_has_an_id_of_its_own<B: Backend>(backend: &B) {
    let (one, other) = (mail("one"), mail("other"));
    let first = backend.mailer().send(&one).await.unwrap();
    let second = backend.mailer().send(&other).await.unwrap();
    assert_ne!(first, second);
    assert!(!first.is_empty() && !second.is_empty());
}

pub async fn what_is_sent_twice_leaves_twice<B: Backend>(backend: &B) {
    let sent = mail("again");
    backend.mailer().send(&sent).await.unwrap();
    backend.mailer().send(&sent).await.unwrap();
    assert_eq!(backend.mails().await.len(), 2, "claims keep a mail from being sent twice, not the mailer");
}
