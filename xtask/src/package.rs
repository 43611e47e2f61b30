//! `cargo xtask package`: the functions as zips, as `infra/template.yaml` names them.
//!
//! Amazon Linux 2023, on which `provided.al2023` runs, has glibc 2.34: a program built on a newer system runs there as
//! long as it asks for no newer symbol, which is checked. The same program gives the same zip, byte for byte, so that a
//! deployment uploads what has changed alone. Must not know: what a function does.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::steps::{self, Steps, cargo};

/// Each zip, and the binary that is its `bootstrap`.
pub(crate) const FUNCTIONS: [(&str, &str); 7] = [
    ("dispatcher", "recado-dispatcher-lambda"),
    ("email-worker", "recado-email-worker-lambda"),
    ("mail-feedback", "recado-mail-feedback-lambda"),
    ("ws-connect", "recado-ws-connect"),
    ("ws-disconnect", "recado-ws-disconnect"),
    ("ws-message", "recado-ws-message"),
    ("http-api", "recado-http-api-lambda"),
];

/// The crates they are in.
const ROOMS: [&str; 4] = ["recado-dispatcher", "recado-email-worker", "recado-ws-handlers", "recado-http-api"];

/// The newest glibc a function may ask for.
const GLIBC: (u32, u32) = (2, 34);

/// What the functions are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// To be deployed: small and fast, which takes its time.
    Package,
    /// For an emulator on this machine: what `cargo xtask test` has built in any case.
    Emulator,
}

/// What the functions run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86,
    #[value(name = "arm64")]
    Arm,
}

impl Arch {
    fn target(self) -> &'static str {
        match self {
            Self::X86 => "x86_64-unknown-linux-gnu",
            Self::Arm => "aarch64-unknown-linux-gnu",
        }
    }

    /// The architecture of this machine, where functions run on one like it.
    pub(crate) fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm } else { Self::X86 }
    }

    /// As the parameter `Architecture` of infra/template.yaml calls it.
    fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        }
    }

    /// The prefix of binutils and of the C compiler for it.
    fn tools(self) -> &'static str {
        match self {
            _ if self == Self::of_this_machine() => "",
            Self::X86 => "x86_64-linux-gnu-",
            Self::Arm => "aarch64-linux-gnu-",
        }
    }
}

/// Builds and zips every function; says how large they are.
pub(crate) fn package(profile: Profile, arch: Arch) -> Result<()> {
    let mut steps = Steps::new("package");
    can_build(arch)?;
    steps.run("build", &mut build(profile, arch))?;
    let folder = packages();
    zip_all(profile, arch, &folder)?;
    if profile == Profile::Package {
        println!("Deploy them with Architecture={}.\n", arch.name());
    }
    steps.summary();
    Ok(())
}

/// Zips what was built into a folder, and says how large it is.
pub(crate) fn zip_all(profile: Profile, arch: Arch, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    println!("\n{:<16} {:>12} {:>12}  newest glibc", "function", "program", "zip");
    for function in FUNCTIONS {
        let Zipped { program, zip, glibc: (major, minor) } = zip_one(function, profile, arch, folder)?;
        println!("{:<16} {program:>10} K {zip:>10} K  {major}.{minor}", function.0);
    }
    println!("\nin {}\n", folder.display());
    Ok(())
}

/// Zips into a folder, which has nothing but zips of this profile and architecture, what was built after its zip there.
pub(crate) fn zip_changed(profile: Profile, arch: Arch, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    for (name, binary) in FUNCTIONS {
        let (program, zip) = (built(profile, arch).join(binary), zip_of(folder, name));
        let is_new = changed(&zip).is_ok_and(|zipped| changed(&program).is_ok_and(|built| built < zipped));
        if !is_new {
            zip_one((name, binary), profile, arch, folder)?;
        }
    }
    Ok(())
}

/// What came of a function: kibibytes, and the newest glibc it asks for.
struct Zipped {
    program: u64,
    zip: u64,
    glibc: (u32, u32),
}

fn zip_one((name, binary): (&str, &str), profile: Profile, arch: Arch, folder: &Path) -> Result<Zipped> {
    let program = stripped(&built(profile, arch).join(binary), profile, arch, &folder.join(format!("{name}.bootstrap")))?;
    let glibc = newest_glibc(&program, arch)?;
    ensure!(
        glibc <= GLIBC,
        "{binary} asks for glibc {}.{}, and Amazon Linux 2023 has {}.{}: build it on an older system, or with cargo-zigbuild",
        glibc.0,
        glibc.1,
        GLIBC.0,
        GLIBC.1
    );
    // Beside it first: a zip that is there is whole.
    let (zip, beside) = (zip_of(folder, name), folder.join(format!("{name}.zip.new")));
    write_zip(&program, &beside, profile)?;
    fs::rename(&beside, &zip).with_context(|| format!("{} cannot be written", zip.display()))?;
    let zipped = Zipped { program: kibibytes(&program)?, zip: kibibytes(&zip)?, glibc };
    fs::remove_file(&program).with_context(|| format!("{} cannot be removed", program.display()))?;
    Ok(zipped)
}

/// The zip of a function in a folder.
pub(crate) fn zip_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.zip"))
}

/// Where the zips are; `infra/template.yaml` names them there.
pub(crate) fn packages() -> PathBuf {
    target().join("package")
}

fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => steps::root().join(folder),
        None => steps::root().join("target"),
    }
}

/// Says what is missing before anything is built.
fn can_build(arch: Arch) -> Result<()> {
    if arch == Arch::of_this_machine() {
        return Ok(());
    }
    let installed = steps::command("rustup", &["target", "list", "--installed"]).output().context("rustup cannot be asked for targets")?;
    let installed = String::from_utf8_lossy(&installed.stdout).into_owned();
    let target = arch.target();
    ensure!(
        installed.lines().any(|line| line == target),
        "the standard library for {target} is not installed: `rustup target add {target}`, or build on a machine of that architecture"
    );
    let compiler = format!("{}gcc", arch.tools());
    if !steps::answers(&mut steps::command(&compiler, &["--version"])) {
        bail!("{compiler} is missing: install the C cross compiler for {target}, or build on a machine of that architecture");
    }
    Ok(())
}

/// One build for all, so that they share what they depend on.
pub(crate) fn build(profile: Profile, arch: Arch) -> Command {
    if profile == Profile::Emulator && arch == Arch::of_this_machine() {
        // As `cargo xtask test` builds, so that nothing is built a second time with other features.
        return cargo(&["build", "--workspace", "--all-features", "--bins", "--tests"]);
    }
    let mut command = cargo(&["build", "--bins", "--target", arch.target()]);
    for room in ROOMS {
        command.args(["--package", room, "--features", &format!("{room}/lambda")]);
    }
    if profile == Profile::Package {
        command.args(["--profile", "lambda"]);
    }
    if !arch.tools().is_empty() {
        let linker = format!("CARGO_TARGET_{}_LINKER", arch.target().replace('-', "_").to_ascii_uppercase());
        command.env(linker, format!("{}gcc", arch.tools()));
    }
    command
}

/// Where [`build`] leaves its programs.
pub(crate) fn built(profile: Profile, arch: Arch) -> PathBuf {
    match profile {
        Profile::Emulator if arch == Arch::of_this_machine() => target().join("debug"),
        Profile::Emulator => target().join(arch.target()).join("debug"),
        Profile::Package => target().join(arch.target()).join("lambda"),
    }
}

/// A copy without symbols: those of a development build are the most of it.
fn stripped(binary: &Path, profile: Profile, arch: Arch, copy: &Path) -> Result<PathBuf> {
    if profile == Profile::Package {
        fs::copy(binary, copy).with_context(|| format!("{} cannot be copied", binary.display()))?;
        return Ok(copy.to_owned());
    }
    let strip = format!("{}strip", arch.tools());
    let status =
        Command::new(&strip).arg("-o").arg(copy).arg(binary).status().with_context(|| format!("{strip} (binutils) cannot start"))?;
    ensure!(status.success(), "{strip} failed on {}", binary.display());
    Ok(copy.to_owned())
}

/// The newest version of glibc that a program's symbols name.
fn newest_glibc(program: &Path, arch: Arch) -> Result<(u32, u32)> {
    let objdump = format!("{}objdump", arch.tools());
    let output = Command::new(&objdump).arg("-T").arg(program).output().with_context(|| format!("{objdump} (binutils) cannot start"))?;
    ensure!(output.status.success(), "{objdump} cannot read {}", program.display());
    let newest = glibc_versions(&String::from_utf8_lossy(&output.stdout)).max();
    newest.with_context(|| format!("{} names no symbol of glibc: is it linked to another C library?", program.display()))
}

/// Every `GLIBC_x.y` of a symbol table.
fn glibc_versions(table: &str) -> impl Iterator<Item = (u32, u32)> {
    table.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|character: char| !character.is_ascii_digit() && character != '.').next()?;
        let mut numbers = version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

/// `bootstrap`, executable, at the root. Neither a time nor an owner, so that the same program gives the same bytes.
fn write_zip(program: &Path, zip: &Path, profile: Profile) -> Result<()> {
    let level = match profile {
        Profile::Package => 9,
        Profile::Emulator => 1,
    };
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(level))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let failed = || format!("{} cannot be written", zip.display());
    let mut writer = ZipWriter::new(BufWriter::new(File::create(zip).with_context(failed)?));
    writer.start_file("bootstrap", options).with_context(failed)?;
    let mut program = BufReader::new(File::open(program).with_context(|| format!("{} cannot be read", program.display()))?);
    std::io::copy(&mut program, &mut writer).with_context(failed)?;
    writer.finish().with_context(failed)?;
    Ok(())
}

fn kibibytes(file: &Path) -> Result<u64> {
    let size = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    Ok(size.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_counts() {
        let table =
            "0000 DF *UND* 0000 (GLIBC_2.2.5) memcpy\n0000 DF *UND* 0000 (GLIBC_2.34) pthread_create\n0000 (GLIBC_2.9) x\n0000 (GCC_3.0) y";
        assert_eq!(glibc_versions(table).max(), Some((2, 34)));
        assert!((2, 35) > GLIBC && (2, 4) < GLIBC && GLIBC >= (2, 34));
        assert_eq!(glibc_versions("GLIBC_PRIVATE GLIBC_ABI_DT_RELR").max(), None);
    }

    #[test]
    fn the_same_program_gives_the_same_zip_with_an_executable_bootstrap() {
        let folder = target().join("tmp").join(format!("xtask-zip-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let program = folder.join("program");
        fs::write(&program, b"#!/bin/true\n").expect("a program");
        let (first, second) = (folder.join("1.zip"), folder.join("2.zip"));
        write_zip(&program, &first, Profile::Package).expect("a zip");
        write_zip(&program, &second, Profile::Package).expect("a zip");
        assert_eq!(fs::read(&first).expect("bytes"), fs::read(&second).expect("bytes"));
        let mut archive = zip::ZipArchive::new(File::open(&first).expect("a zip")).expect("a zip");
        assert_eq!(archive.len(), 1);
        let mode = archive.by_name("bootstrap").expect("the program").unix_mode();
        assert_eq!(mode.map(|mode| mode & 0o777), Some(0o755));
        fs::remove_dir_all(folder).expect("a folder of ours");
    }

    #[test]
    fn an_architecture_has_the_name_that_the_template_knows() {
        let template = fs::read_to_string(steps::root().join("infra/template.yaml")).expect("the template");
        let names: Vec<_> = Arch::value_variants().iter().map(|arch| arch.name()).collect();
        assert!(template.contains(&format!("AllowedValues: [{}]", names.join(", "))), "infra/template.yaml knows others than {names:?}");
        for arch in Arch::value_variants() {
            assert_eq!(Arch::from_str(arch.name(), false), Ok(*arch));
        }
    }

    #[test]
    fn the_template_has_a_package_for_each_function() {
        let template = fs::read_to_string(steps::root().join("infra/template.yaml")).expect("the template");
        for (name, _) in FUNCTIONS {
            assert!(template.contains(&format!("CodeUri: ../target/package/{name}.zip")), "infra/template.yaml has no {name}.zip");
        }
        assert_eq!(template.matches("target/package/").count(), FUNCTIONS.len(), "the template names a package that is not built");
    }
}
