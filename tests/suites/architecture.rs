//! The house's own rules, as tests: arrows run one way, and what the documents promise of the tree is so.
//!
//! Must not know: what any crate does. Every failure says what to change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// The rooms: each a library between `runtime` and `cli`.
const ROOMS: [&str; 5] = ["recado-producer", "recado-dispatcher", "recado-ws-handlers", "recado-email-worker", "recado-http-api"];

/// Adapters: the ports of `domain`, each on something else.
const ADAPTERS: [&str; 3] = ["recado-memory", "recado-embedded", "recado-aws"];

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    // Only what this platform builds, so that nothing has to be downloaded for another.
    let options = ["--offline".to_owned(), "--filter-platform".to_owned(), host()];
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).other_options(options);
    command.exec().expect("`cargo metadata --offline` answers once the workspace was built")
});

fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = Command::new(rustc).arg("-vV").output().expect("rustc answers");
    let text = String::from_utf8(answer.stdout).expect("rustc answers text");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests stand in the workspace")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

fn member(name: &str) -> &'static Package {
    let found = METADATA.workspace_packages().into_iter().find(|package| package.name.as_str() == name);
    found.unwrap_or_else(|| panic!("the workspace has no member `{name}`; bring this test up to date"))
}

/// The house's crates that `package` names among its dependencies of the given kinds.
fn house_dependencies(package: &Package, kinds: &[DependencyKind]) -> BTreeSet<String> {
    let house: BTreeSet<&str> = METADATA.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let named = package.dependencies.iter().filter(|dependency| kinds.contains(&dependency.kind));
    named.map(|dependency| dependency.name.clone()).filter(|name| house.contains(name.as_str())).collect()
}

/// Everything linked into `name`, itself included, by crate name.
fn linked(name: &str) -> BTreeSet<String> {
    let resolve = METADATA.resolve.as_ref().expect("metadata has a resolved graph");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut reached = BTreeSet::new();
    let mut open = vec![&member(name).id];
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            let normal =
                |dependency: &&cargo_metadata::NodeDep| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            open.extend(nodes[id].deps.iter().filter(normal).map(|dependency| &dependency.pkg));
        }
    }
    reached.into_iter().map(|id| METADATA[id].name.to_string()).collect()
}

/// Every file of the tree that people wrote.
fn files() -> Vec<PathBuf> {
    const NOT_OURS: [&str; 5] = ["target", ".git", ".recado", "node_modules", "Cargo.lock"];
    let mut found = Vec::new();
    let mut open = vec![root().to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree can be listed").flatten() {
            let kind = entry.file_type().expect("a file of the tree has a type");
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            } else if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn files_ending(end: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn assert_none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "{what_to_do}:\n  {}", found.join("\n  "));
}

#[test]
fn arrows_run_one_way() {
    let lower = ["recado-domain", "recado-runtime"];
    let mut wrong = Vec::new();
    for package in METADATA.workspace_packages() {
        let name = package.name.as_str();
        let allowed: Vec<&str> = match name {
            "recado-domain" | "recado-model" | "xtask" => vec![],
            "recado-runtime" => vec!["recado-domain"],
            _ if ADAPTERS.contains(&name) => lower.to_vec(),
            // For its composition roots alone; `a_room_names_aws_in_its_composition_roots_alone` says how.
            _ if ROOMS.contains(&name) => [&lower[..], &["recado-aws"]].concat(),
            // The SDK is behind a feature: see `the_default_build_has_no_aws_sdk`.
            "recado-cli" => [&lower[..], &["recado-embedded", "recado-aws"], &ROOMS].concat(),
            "recado-fuzz" | "recado-simulation" | "recado-tests" => continue,
            // An example is an application: it sees what applications see.
            _ if name.ends_with("-example") => vec!["recado-producer", "recado-domain"],
            _ => {
                wrong.push(format!("{name} is new: say in this test what it may depend on"));
                continue;
            }
        };
        let named = house_dependencies(package, &[DependencyKind::Normal, DependencyKind::Build]);
        wrong.extend(named.iter().filter(|other| !allowed.contains(&other.as_str())).map(|other| format!("{name} → {other}")));
    }
    assert_none(
        &wrong,
        "dependencies run domain ← runtime ← {memory, embedded} ← rooms ← cli ← tests (ARCHITECTURE.md); \
         take a port as an argument instead of naming an adapter, or a message on the queue instead of another room",
    );
}

#[test]
fn a_room_names_aws_in_its_composition_roots_alone() {
    let mut wrong = Vec::new();
    for room in ROOMS {
        let package = member(room);
        let named = package.dependencies.iter().filter(|dependency| dependency.name == "recado-aws");
        wrong.extend(named.filter(|dependency| !dependency.optional).map(|_| format!("{room}: the dependency is not optional")));
        let default = package.features.get("default").into_iter().flatten();
        wrong.extend(
            default
                .filter(|feature| ["aws", "lambda"].contains(&feature.as_str()))
                .map(|feature| format!("{room}: {feature} is a default")),
        );
        let roots = package
            .targets
            .iter()
            .filter(|target| target.is_bin() && target.src_path.parent().is_some_and(|folder| folder.ends_with("bin")));
        wrong.extend(
            roots.filter(|root| root.required_features.is_empty()).map(|root| format!("{room}: {} requires no feature", root.name)),
        );
        let library = package.manifest_path.parent().expect("a manifest has a folder").join("src");
        let files = files_ending(".rs").into_iter().filter(|path| path.starts_with(&library) && read(path).contains("recado_aws"));
        wrong.extend(files.map(|path| shown(&path)));
    }
    assert_none(
        &wrong,
        "a room's library takes its ports as arguments; only what is in its folder bin/ names AWS, behind a feature that is off by default",
    );
}

#[test]
fn rooms_never_depend_on_each_other_even_in_their_tests() {
    let mut wrong = Vec::new();
    for room in ROOMS {
        let all = [DependencyKind::Normal, DependencyKind::Development, DependencyKind::Build];
        let others = house_dependencies(member(room), &all).into_iter().filter(|name| ROOMS.contains(&name.as_str()));
        wrong.extend(others.map(|other| format!("{room} → {other}")));
    }
    assert_none(&wrong, "rooms meet in a message or a row; a test of two rooms together belongs in tests/suites");
}

#[test]
fn the_ports_in_memory_are_linked_into_no_product() {
    assert!(!linked("recado-cli").contains("recado-memory"), "recado-memory is for tests: name it under [dev-dependencies]");
}

#[test]
fn the_domain_knows_no_io() {
    const IO: [&str; 9] = ["tokio", "axum", "hyper", "rusqlite", "reqwest", "lettre", "tracing-subscriber", "mio", "async-io"];
    let found: Vec<String> = linked("recado-domain").into_iter().filter(|name| IO.contains(&name.as_str())).collect();
    assert_none(&found, "recado-domain has words and rules only; put what does IO behind a port and into an adapter");
}

#[test]
fn the_default_build_has_no_aws_sdk() {
    let sdk = |name: &String| ["aws-sdk-", "aws-config", "aws-smithy", "aws-runtime"].iter().any(|prefix| name.starts_with(prefix));
    let found: Vec<String> = linked("recado-cli").into_iter().filter(sdk).collect();
    assert_none(&found, "`cargo run` builds no AWS SDK; put it behind a cargo feature that is off by default");
}

#[test]
fn every_member_keeps_the_lints_of_the_workspace() {
    let lax = METADATA.workspace_packages().into_iter().filter(|package| {
        let manifest = read(package.manifest_path.as_std_path());
        !manifest.contains("[lints]\nworkspace = true")
    });
    let lax: Vec<String> = lax.map(|package| package.name.to_string()).collect();
    assert_none(&lax, "add `[lints]` with `workspace = true` to the manifest of");
    assert!(read(&root().join("Cargo.toml")).contains("unsafe_code = \"forbid\""), "the workspace forbids unsafe code; keep it so");
}

#[test]
fn every_shared_dependency_is_used_by_a_member() {
    let manifest = read(&root().join("Cargo.toml"));
    let after = manifest.split("[workspace.dependencies]").nth(1).expect("the root manifest shares dependencies");
    let section = after.split("\n[").next().unwrap_or_default();
    let shared = section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).filter(|name| !name.starts_with('#'));
    let used: BTreeSet<String> =
        METADATA.workspace_packages().iter().flat_map(|package| &package.dependencies).map(|dependency| dependency.name.clone()).collect();
    let unused: Vec<String> = shared.filter(|name| !used.contains(*name) && !name.starts_with("recado-")).map(str::to_owned).collect();
    assert_none(&unused, "remove from [workspace.dependencies] of Cargo.toml what no member uses");
}

#[test]
fn every_module_says_what_it_is_for() {
    let speaks = |text: &str| text.starts_with("//!") || text.starts_with("#![doc = include_str!(");
    let silent: Vec<String> = files_ending(".rs").iter().filter(|path| !speaks(&read(path))).map(|path| shown(path)).collect();
    assert_none(&silent, "start the file with `//!`: what it is for, and what it must not know");
}

#[test]
fn no_file_names_a_registry_or_leaves_a_note_to_finish_it() {
    // Put together here, so that this file does not hold what it looks for.
    let banned = [
        (concat!("crates", ".io"), "packages come from the registry cargo is configured for"),
        (concat!("npm", "js.org"), "packages come from the registry npm is configured for"),
        (concat!("TO", "DO"), "finish it, or leave it out"),
        (concat!("FIX", "ME"), "finish it, or leave it out"),
    ];
    let mut found = Vec::new();
    for path in files() {
        // Pictures and the like are no text.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (line, at) in text.lines().zip(1..) {
            found.extend(
                banned.iter().filter(|(word, _)| line.contains(word)).map(|(word, why)| format!("{}:{at}: `{word}`: {why}", shown(&path))),
            );
        }
    }
    assert_none(&found, "take these words out");
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    for path in files_ending(".md") {
        let text = read(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")) {
            let file = target.split('#').next().unwrap_or_default();
            if !path.parent().is_some_and(|folder| folder.join(file).exists()) {
                broken.push(format!("{} → {target}", shown(&path)));
            }
        }
    }
    assert_none(&broken, "a link in a document names a file that is not there");
}

#[test]
fn the_readme_has_the_two_commands() {
    let readme = read(&root().join("README.md"));
    for command in ["cargo run", "cargo xtask test"] {
        assert!(readme.lines().any(|line| line.trim() == command), "README.md has no line `{command}` in a block of its own; add it");
    }
}

#[test]
fn the_schemas_are_what_the_types_say() {
    let folder = root().join("schemas");
    let mut stale = Vec::new();
    for (name, schema) in [
        ("event.json", schemars::schema_for!(recado_domain::event::Document)),
        ("client-frame.json", schemars::schema_for!(recado_domain::frame::ClientFrame)),
        ("server-frame.json", schemars::schema_for!(recado_domain::frame::ServerFrame<'static>)),
    ] {
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
        if std::env::var_os("RECADO_WRITE_SCHEMAS").is_some() {
            std::fs::create_dir_all(&folder).expect("schemas/ can be made");
            std::fs::write(&path, text).expect("a schema can be written");
        } else if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            stale.push(shown(&path));
        }
    }
    assert_none(&stale, "run `cargo xtask schemas` and commit what it writes; stale");
}
