//! The `recado` command publishes and listens.

use serde_json::Value;

use crate::harness::{Deployment, Tested, event};

pub async fn the_commands_publish_and_listen<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let token = recado.token("alice")?;
    let arguments = ["listen", "--token", &token, "--count", "3", "--json"];
    let listened = recado.run(&arguments);
    let published = async {
        let sent = recado.run(&["publish", "--to", "alice", "--title", "from the command", "--json"]).await?;
        assert_eq!(sent.code, Some(0), "{}", sent.err);
        let accepted: Value = serde_json::from_str(sent.out.trim())?;
        assert_eq!(accepted["status"], "accepted");
        let lines = tempfile::NamedTempFile::new()?;
        std::fs::write(lines.path(), format!("{}\n\n{}\nnonsense\n", event(&["alice"], "line 1"), event(&["alice"], "line 2")))?;
        let sent = recado.run(&["publish", "--file", &lines.path().to_string_lossy()]).await?;
        assert_eq!(sent.code, Some(1));
        assert!(sent.out.contains("2 accepted, 1 refused") && sent.err.contains("line 4"), "{sent:?}");
        anyhow::Ok(())
    };
    let (listened, published) = tokio::join!(listened, published);
    published?;
    let listened = listened?;
    assert_eq!(listened.code, Some(0), "{}", listened.err);
    for title in ["from the command", "line 1", "line 2"] {
        assert!(listened.out.contains(title), "{title} is missing in {}", listened.out);
    }
    Ok(())
}
