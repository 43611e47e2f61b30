//! Every property holds of everything that a search has kept.

use std::fs;
use std::path::Path;

use recado_fuzz::PROPERTIES;

#[test]
fn every_property_holds_of_its_corpus() {
    for (name, property) in PROPERTIES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files: Vec<_> = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).collect();
        assert!(files.len() >= 5, "{} holds only {} files", folder.display(), files.len());
        for file in files {
            property(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn every_property_is_searched() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in PROPERTIES {
        let target = format!("targets/{name}.rs");
        assert!(folder.join(&target).is_file() && manifest.contains(&target), "{name} is no target of libFuzzer");
    }
}
