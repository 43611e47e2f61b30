//! The documents name what the command really takes: every setting is described, and every example can be typed.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

#[test]
fn the_configuration_document_has_every_setting() {
    let document = read(&root().join("docs/configuration.md"));
    let command = recado_cli::definition();
    let described = |name: &String| [' ', '`'].iter().any(|end| document.contains(&format!("`{name}{end}")));
    let mut missing = Vec::new();
    for command in command.get_subcommands() {
        for argument in command.get_arguments() {
            let flag = argument.get_long().filter(|_| command.get_name() == "up").map(|name| format!("--{name}"));
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            missing.extend(flag.into_iter().chain(variable).filter(|name| !described(name)));
        }
    }
    assert!(missing.is_empty(), "describe in docs/configuration.md: {missing:?}");
}

#[test]
fn every_example_of_the_documents_can_be_typed() {
    let mut seen = 0;
    for name in ["README.md", "docs/configuration.md", "docs/events.md", "docs/protocol.md", "docs/http.md"] {
        for example in examples(&read(&root().join(name))) {
            seen += 1;
            let parsed = recado_cli::definition().try_get_matches_from(words(&example));
            assert!(parsed.is_ok(), "{name}: `{example}`\n{}", parsed.expect_err("refused"));
        }
    }
    assert!(seen >= 4, "only {seen} examples found: has their form changed?");
}

/// Lines that start with the command, in blocks of shell; a line that ends with a backslash goes on.
fn examples(document: &str) -> Vec<String> {
    let blocks = document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let joined: Vec<String> = blocks.map(|block| block.replace("\\\n", " ")).collect();
    joined.iter().flat_map(|block| block.lines()).map(str::trim).filter(|line| line.starts_with("recado ")).map(str::to_owned).collect()
}

/// What a shell makes of a line: words, parts in double quotes together, nothing behind `#`.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => break,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.into_iter().chain(word).collect()
}

#[test]
fn a_line_is_read_as_a_shell_reads_it() {
    assert_eq!(words(r#"recado publish --title "a b" --id=1   # why"#), ["recado", "publish", "--title", "a b", "--id=1"]);
}
