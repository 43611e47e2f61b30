//! Who gets a socket, and what ends one.

use std::time::Duration;

use recado_domain::connection::CloseReason;
use reqwest::StatusCode;

use crate::harness::{Deployment, Setup, Tested, TokenEnd, event, eventually, titles};

pub async fn a_socket_is_closed_when_its_token_ends<D: Deployment>() -> Tested {
    let recado = D::up_with(Setup { token_leeway: Duration::ZERO }).await?;
    let token = recado.issuer.token("alice", Duration::from_secs(3))?;
    let mut alice = recado.connect_with(&token, true).await?;
    let refused = eventually("the token has ended", async || Ok(recado.try_connect(&token, true).await?.err())).await?;
    assert_eq!(refused, D::EXPECTED.unauthorized);
    match D::EXPECTED.token_end {
        TokenEnd::Server => {}
        TokenEnd::NextUse => alice.send_text("{}".to_owned()).await?,
    }
    assert_eq!(alice.closed().await?, D::EXPECTED.closed.of(CloseReason::TokenExpired));
    Ok(())
}

pub async fn without_a_valid_token_there_is_neither_socket_nor_inbox<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    for token in ["", "x.y.z", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."] {
        assert_eq!(recado.try_connect(token, true).await?.err(), Some(D::EXPECTED.unauthorized));
        let answer = recado.http.get(format!("{}/inbox", recado.url)).bearer_auth(token).send().await?;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

pub async fn an_oversized_message_does_not_disturb_other_sockets<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.live("alice").await?;
    let mut bob = recado.live("bob").await?;
    alice.send_text("x".repeat(200 * 1024)).await?;
    if D::EXPECTED.oversized_closes {
        assert_eq!(alice.closed().await?.0, CloseReason::TooLarge.code());
    } else {
        assert_eq!(alice.next("error").await?["code"], "limit_exceeded");
    }
    recado.publish(&event(&["bob"], "still here")).await?;
    assert_eq!(titles(&bob.live_items(1).await?), ["still here"]);
    Ok(())
}

pub async fn a_frame_that_makes_no_sense_is_answered_and_the_socket_stays<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.live("alice").await?;
    for (frame, code) in [("{", "invalid_frame"), (r#"{"type":"dance"}"#, "unknown_type"), (r#"{"type":"read","ids":7}"#, "invalid_frame")]
    {
        alice.send_text(frame.to_owned()).await?;
        assert_eq!(alice.next("error").await?["code"], code);
    }
    alice.sync(None, &[]).await?;
    Ok(())
}

pub async fn one_connection_above_the_cap_closes_the_oldest<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut oldest = recado.live("alice").await?;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(recado.live("alice").await?);
    }
    assert_eq!(oldest.closed().await?, D::EXPECTED.closed.of(CloseReason::Replaced));
    recado.publish(&event(&["alice"], "to the rest")).await?;
    for client in &mut others {
        client.live_items(1).await?;
    }
    Ok(())
}
