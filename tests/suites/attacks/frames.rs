//! What a client sends over its own socket to harm the server or others: floods, sizes, depth, and bytes that are no protocol.

use anyhow::{Context, ensure};
use recado_tests::harness::{Tested, event, titles};
use serde_json::json;

use super::raw::{FINAL_BINARY, FINAL_TEXT, PING, PONG, RawSocket, head};
use super::victim::Victim;

async fn socket(victim: &Victim) -> anyhow::Result<RawSocket> {
    RawSocket::open(victim.url.trim_start_matches("http://"), &victim.token_of("mallory")?).await
}

/// That somebody else is served as before.
async fn serves_alice(victim: &Victim) -> Tested {
    let mut alice = victim.live("alice").await?;
    victim.publish(&event(&["alice"], "still here")).await?;
    ensure!(titles(&alice.live_items(1).await?) == ["still here"]);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_frames_of_any_kind_ends_its_socket_alone() -> Tested {
    let victim = Victim::up(&[]).await?;
    for (what, first, payload) in [
        ("text", FINAL_TEXT, &b"{}"[..]),
        ("syncs", FINAL_TEXT, br#"{"type":"sync","request":"1"}"#),
        ("pings", PING, b"x"),
        ("pongs", PONG, b"x"),
    ] {
        let mut mallory = socket(&victim).await?;
        for _ in 0..1_000 {
            mallory.send(first, payload).await;
        }
        let code = mallory.closed().await?;
        // The close may be lost to the reset that answers what was sent after it.
        ensure!(matches!(code, Some(4029) | None), "{what}: {code:?}");
        serves_alice(&victim).await?;
    }
    let counted = victim.http.get(format!("{}/metrics", victim.url)).send().await?.text().await?;
    let limited = counted.lines().find_map(|line| line.strip_prefix("recado_sockets_closed_total{reason=\"rate limited\"} "));
    ensure!(limited == Some("4"), "four sockets were to be closed for their rate: {limited:?}");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn fragments_that_never_end_a_message_end_their_socket_alone() -> Tested {
    // RFC 6455, 5.2: no final fragment.
    const TEXT: u8 = 0x01;
    const CONTINUATION: u8 = 0x00;
    let victim = Victim::up(&[]).await?;
    for (what, payload) in [("of nothing", &b""[..]), ("of a byte", b" ")] {
        let mut mallory = socket(&victim).await?;
        mallory.send(TEXT, payload).await;
        // Heads and masks of 6 bytes: some 240 KB, of which a message could have 128 KiB.
        for _ in 0..40_000 {
            mallory.send(CONTINUATION, payload).await;
        }
        let code = mallory.closed().await?;
        ensure!(matches!(code, Some(4029) | None), "fragments {what}: {code:?}");
    }
    serves_alice(&victim).await?;
    let counted = victim.http.get(format!("{}/metrics", victim.url)).send().await?.text().await?;
    let limited = counted.lines().find_map(|line| line.strip_prefix("recado_sockets_closed_total{reason=\"rate limited\"} "));
    ensure!(limited == Some("2"), "two sockets were to be closed: {limited:?}");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_their_socket_alone() -> Tested {
    let victim = Victim::up(&[]).await?;
    let mut unmasked = head(FINAL_TEXT, 0, 2);
    unmasked.extend(b"{}");
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = head(first, 0x80, payload.len());
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    };
    let cases = [
        ("text that is not UTF-8", masked(FINAL_TEXT, &[0xff, 0xfe, 0xfd]), 1007),
        ("a lone surrogate", masked(FINAL_TEXT, &[0xed, 0xa0, 0x80]), 1007),
        ("binary", masked(FINAL_BINARY, b"{}"), 1003),
        ("an unmasked frame", unmasked, 1002),
        ("a reserved opcode", masked(0x83, b"{}"), 1002),
        ("a reserved bit", masked(0xc1, b"{}"), 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a ping of 126 bytes", masked(PING, &[b'x'; 126]), 1002),
        ("a frame above the limit", masked(FINAL_TEXT, &vec![b' '; 200 * 1024]), 1009),
        ("a frame that says it has 2^62 bytes", [vec![FINAL_TEXT, 0xff], (1_u64 << 62).to_be_bytes().to_vec(), vec![0; 4]].concat(), 1009),
    ];
    for (what, bytes, expected) in cases {
        let mut mallory = socket(&victim).await?;
        mallory.send_bytes(&bytes).await;
        let code = mallory.closed().await?;
        ensure!(code == Some(expected), "{what}: {code:?}, not {expected}");
    }
    // Many fragments of one message are one message: its size counts.
    let mut mallory = socket(&victim).await?;
    mallory.send(0x01, b" ").await;
    for _ in 0..10 {
        mallory.send(0x00, &vec![b' '; 16 * 1024]).await;
    }
    let code = mallory.closed().await?;
    ensure!(matches!(code, Some(1009) | None), "fragments: {code:?}");
    serves_alice(&victim).await?;
    victim.has_kept_quiet().await
}

/// Brackets that nest.
pub(crate) fn deep(open: &str, close: &str, depth: usize) -> String {
    format!("{}{}", open.repeat(depth), close.repeat(depth))
}

/// Text that is no frame, and the code of its answer. `marker` is in some of it.
pub(crate) fn hostile_frames(marker: &str) -> Vec<(String, &'static str)> {
    let id = "0c4g1rtd6xv2n8k0wq3m5h7e9a";
    vec![
        (deep("[", "]", 10_000), "invalid_frame"),
        (deep(r#"{"type":"#, "}", 3_000), "invalid_frame"),
        (format!(r#"{{"type":"sync","request":"1","since":{}}}"#, deep("[", "]", 10_000)), "invalid_frame"),
        (format!(r#"{{"type":"sync","request":"1","unknown":{}}}"#, deep("[", "]", 10_000)), "invalid_frame"),
        (marker.to_owned(), "invalid_frame"),
        (format!(r#"{{"type":"{marker}"}}"#), "unknown_type"),
        (format!(r#"{{"type":["sync"],"request":"{marker}"}}"#), "invalid_frame"),
        (format!(r#"{{"type":"sync","type":"ack","ids":["{marker}"]}}"#), "invalid_frame"),
        (json!({ "type": "sync", "request": "x".repeat(129) }).to_string(), "limit_exceeded"),
        (json!({ "type": "sync", "request": "" }).to_string(), "limit_exceeded"),
        (json!({ "type": "sync", "request": "a\u{0}b" }).to_string(), "limit_exceeded"),
        (json!({ "type": "sync", "request": "1", "client": "x".repeat(129) }).to_string(), "limit_exceeded"),
        (json!({ "type": "sync", "request": "1", "ack": vec![id; 1_001] }).to_string(), "limit_exceeded"),
        (json!({ "type": "read", "ids": vec![id; 1_001] }).to_string(), "limit_exceeded"),
        (json!({ "type": "ack", "ids": [marker] }).to_string(), "invalid_frame"),
        (json!({ "type": "ack", "ids": ["../../etc/passwd"] }).to_string(), "invalid_frame"),
        (json!({ "type": "ack", "ids": { "$ne": null } }).to_string(), "invalid_frame"),
        (json!({ "type": "read_all", "up_to": "8ZZZZZZZZZZZZZZZZZZZZZZZZZ" }).to_string(), "invalid_frame"),
        (json!({ "type": "read_all", "up_to": 1e308 }).to_string(), "invalid_frame"),
        ("1e999999".to_owned(), "invalid_frame"),
        ("\u{feff}{}".to_owned(), "invalid_frame"),
    ]
}

#[tokio::test]
async fn text_that_is_no_frame_is_answered_and_repeated_nowhere() -> Tested {
    let victim = Victim::up(&[]).await?;
    let mut mallory = victim.live("mallory").await?;
    let marker = victim.secret("mallorys-marker-4711");
    for (frame, code) in hostile_frames(&marker) {
        mallory.send_text(frame.clone()).await?;
        let answer = mallory.next("error").await.with_context(|| format!("{frame:.80}"))?;
        ensure!(answer["code"] == code, "{frame:.80}: {answer}");
        ensure!(!answer["message"].to_string().contains(&marker), "{answer}");
    }
    mallory.sync(None, &[]).await?;
    serves_alice(&victim).await?;
    victim.has_kept_quiet().await
}
