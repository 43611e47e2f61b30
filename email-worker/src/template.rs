//! Words for a mail: templates by event type and locale, compiled and tried at start.
//!
//! What a template sees comes from events, which anybody who publishes can write: values are data and never compiled.
//! Must not know: headers, claims, who hands a mail over.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use recado_domain::event::{Event, Recipient};
use recado_domain::failure::Failure;
use recado_domain::ports::Outcome;
use serde::Serialize;

use crate::config::MailConfig;
use crate::mime::one_line;

/// Steps of one rendering: a thousand times what the default needs, and an end for a loop over hostile data.
const FUEL: u64 = 200_000;
/// One rendered part, in bytes. Gmail shows the first 102 KiB of a mail.
const PART_BYTES: usize = 256 * 1024;
/// Characters of the text that lists of mails show beside the subject.
const PREHEADER_CHARS: usize = 110;
/// The folder for event types without their own.
const DEFAULT: &str = "default";
/// The file with a payload for the test at start.
const SAMPLE: &str = "sample.json";
/// What templates see.
const VARIABLES: [&str; 12] =
    ["event", "recipient", "title", "body", "url", "category", "payload", "tenant", "headline", "preheader", "link", "sender"];

/// One of the three texts of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Subject,
    Text,
    Html,
}

impl Part {
    const ALL: [Self; 3] = [Self::Subject, Self::Text, Self::Html];

    fn file(self) -> &'static str {
        match self {
            Self::Subject => "subject.txt",
            Self::Text => "body.txt",
            Self::Html => "body.html",
        }
    }

    fn builtin(self) -> (&'static str, &'static str) {
        match self {
            Self::Subject => ("default/subject.txt", include_str!("../templates/default/subject.txt")),
            Self::Text => ("default/body.txt", include_str!("../templates/default/body.txt")),
            Self::Html => ("default/body.html", include_str!("../templates/default/body.html")),
        }
    }

    fn of_file(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.file() == name)
    }
}

/// Why templates are refused at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenTemplate {
    /// Where.
    pub file: PathBuf,
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl fmt::Display for BrokenTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for BrokenTemplate {}

impl BrokenTemplate {
    fn new(file: &Path, line: Option<usize>, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, reason: reason.into() }
    }

    fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self::new(file, None, format!("cannot be read: {error}"))
    }
}

/// The three texts of one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

/// What one event type has.
#[derive(Clone, Default)]
struct Folder {
    /// Template names by locale (lower-case; empty for none) and part.
    templates: HashMap<(String, Part), String>,
    sample: Option<serde_json::Value>,
}

/// Compiled templates.
#[derive(Clone)]
pub struct Templates {
    environment: Environment<'static>,
    folders: BTreeMap<String, Folder>,
    files: HashMap<String, PathBuf>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").field("folders", &self.folders.keys()).finish_non_exhaustive()
    }
}

impl Templates {
    /// The built-in default, and what `folder` adds to it or puts in its place. Reads files and renders each template:
    /// call it once, at start.
    ///
    /// # Errors
    /// Names the first file that is unreadable, no template, or does not render, with line and reason.
    pub fn load(folder: Option<&Path>) -> Result<Self, BrokenTemplate> {
        let mut templates = Self { environment: environment(), folders: BTreeMap::new(), files: HashMap::new() };
        if let Some(root) = folder {
            for (name, path) in entries(root)? {
                if !path.is_dir() {
                    return Err(BrokenTemplate::new(&path, None, "is no folder; put templates into a folder named as the event type"));
                }
                templates.read_folder(&name, None, &path)?;
            }
        }
        for part in Part::ALL {
            let (name, source) = part.builtin();
            if !templates.files.contains_key(name) {
                templates.add(DEFAULT, None, part, name.to_owned(), &PathBuf::from("built-in").join(name), source.to_owned())?;
            }
        }
        templates.try_all()?;
        Ok(templates)
    }

    fn read_folder(&mut self, event_type: &str, locale: Option<&str>, path: &Path) -> Result<(), BrokenTemplate> {
        for (file, path) in entries(path)? {
            if path.is_dir() {
                if locale.is_some() || !is_locale(&file) {
                    return Err(BrokenTemplate::new(
                        &path,
                        None,
                        "is no locale; name the folder as a language tag, such as `pt` or `pt-BR`",
                    ));
                }
                self.read_folder(event_type, Some(&file), &path)?;
                continue;
            }
            let source = fs::read_to_string(&path).map_err(|error| BrokenTemplate::unreadable(&path, &error))?;
            let name = [Some(event_type), locale, Some(&file)].into_iter().flatten().collect::<Vec<_>>().join("/");
            if let Some(part) = Part::of_file(&file) {
                self.add(event_type, locale, part, name, &path, source)?;
            } else if file == SAMPLE && locale.is_none() {
                let sample = serde_json::from_str(&source)
                    .map_err(|error| BrokenTemplate::new(&path, Some(error.line()), format!("is no JSON: {error}")))?;
                self.folders.entry(event_type.to_owned()).or_default().sample = Some(sample);
            } else if file.starts_with('_') {
                self.compile(name, &path, source)?;
            } else {
                let reason = "is no template; there are `subject.txt`, `body.txt`, `body.html`, `sample.json`, and `_…` for `include`";
                return Err(BrokenTemplate::new(&path, None, reason));
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        event_type: &str,
        locale: Option<&str>,
        part: Part,
        name: String,
        path: &Path,
        source: String,
    ) -> Result<(), BrokenTemplate> {
        self.compile(name.clone(), path, source.clone())?;
        self.check_variables(&name, path, &source)?;
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        self.folders.entry(event_type.to_owned()).or_default().templates.insert((locale, part), name);
        Ok(())
    }

    fn compile(&mut self, name: String, path: &Path, source: String) -> Result<(), BrokenTemplate> {
        self.files.insert(name.clone(), path.to_owned());
        self.environment.add_template_owned(name.clone(), source).map_err(|error| self.broken(&name, &error))
    }

    /// Missing values render as nothing, so a misspelt one would never be noticed.
    fn check_variables(&self, name: &str, path: &Path, source: &str) -> Result<(), BrokenTemplate> {
        let template = self.environment.get_template(name).map_err(|error| self.broken(name, &error))?;
        let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        unknown.retain(|used| !VARIABLES.contains(&used.as_str()) && !self.environment.globals().any(|(global, _)| global == used));
        unknown.sort();
        let Some(first) = unknown.first() else { return Ok(()) };
        let line = source.lines().position(|line| line.contains(first.as_str())).map(|at| at + 1);
        Err(BrokenTemplate::new(path, line, format!("there is no `{first}`; there are {}", VARIABLES.join(", "))))
    }

    /// Renders everything with all there can be, and with nothing that can be missing.
    fn try_all(&self) -> Result<(), BrokenTemplate> {
        for (event_type, folder) in &self.folders {
            for name in folder.templates.values() {
                for context in [Context::full(event_type, folder.sample.as_ref()), Context::bare(event_type, folder.sample.as_ref())] {
                    self.run(name, &Value::from(Serde(&context))).map_err(|error| {
                        let mut broken = self.broken(name, &error);
                        if folder.sample.is_none() {
                            broken.reason.push_str("; if it needs a payload, put one into `sample.json` in the folder of the event type");
                        }
                        broken
                    })?;
                }
            }
        }
        Ok(())
    }

    fn broken(&self, name: &str, error: &Error) -> BrokenTemplate {
        let mut innermost = error;
        while let Some(inner) = std::error::Error::source(innermost).and_then(|source| source.downcast_ref::<Error>()) {
            innermost = inner;
        }
        let name = innermost.name().unwrap_or(name);
        let file = self.files.get(name).cloned().unwrap_or_else(|| PathBuf::from(name));
        let reason = match innermost.detail() {
            Some(detail) => format!("{}: {detail}", innermost.kind()),
            None => innermost.kind().to_string(),
        };
        BrokenTemplate { file, line: innermost.line(), reason }
    }

    fn run(&self, name: &str, context: &Value) -> Result<String, Error> {
        self.environment.get_template(name)?.render(context)
    }

    /// Renders the mail of one recipient.
    ///
    /// # Errors
    /// Permanent: the same template and event fail the same way again. Names file and line, no value.
    pub(crate) fn render(&self, config: &MailConfig, event: &Event, recipient: &Recipient, now: Timestamp) -> Outcome<Rendered> {
        let context = Context::new(config, event, recipient, now);
        let value = Value::from(Serde(&context));
        let part = |part| self.part(part, &event.document().event_type, recipient.locale.as_deref(), &value);
        let subject = part(Part::Subject)?;
        Ok(Rendered {
            subject: if subject.trim().is_empty() { context.headline } else { subject },
            text: part(Part::Text)?.trim_matches('\n').to_owned() + "\n",
            html: part(Part::Html)? + "\n",
        })
    }

    fn part(&self, part: Part, event_type: &str, locale: Option<&str>, context: &Value) -> Outcome<String> {
        let name = self.find(part, event_type, locale);
        let text = self.run(name, context).map_err(|error| {
            // Without the detail, which may quote a value.
            let line = error.line().map(|line| format!(" line {line}")).unwrap_or_default();
            Failure::permanent(format!("template {}{line} does not render: {}", error.name().unwrap_or(name), error.kind()))
        })?;
        if text.len() > PART_BYTES {
            return Err(Failure::permanent(format!("template {name} renders {} bytes, the limit is {PART_BYTES}", text.len())));
        }
        Ok(text)
    }

    /// The most particular template: the type's own before the default, each from the locale to its language to none.
    fn find(&self, part: Part, event_type: &str, locale: Option<&str>) -> &str {
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let locales = || std::iter::successors(Some(locale.as_str()), |tag| if tag.is_empty() { None } else { Some(wider(tag)) });
        [event_type, DEFAULT]
            .into_iter()
            .filter_map(|folder| self.folders.get(folder))
            .find_map(|folder| locales().find_map(|locale| folder.templates.get(&(locale.to_owned(), part))))
            .map_or(part.builtin().0, String::as_str)
    }
}

/// `zh-hant-tw`, `zh-hant`, `zh`, nothing (RFC 4647, 3.4: lookup).
fn wider(tag: &str) -> &str {
    tag.rsplit_once('-').map_or("", |(wider, _)| wider)
}

fn is_locale(name: &str) -> bool {
    name.split('-').all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// What a folder holds, by name, in order; hidden files are none of ours.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, BrokenTemplate> {
    let unreadable = |error: io::Error| BrokenTemplate::unreadable(folder, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with('.') => {}
            Some(name) => found.push((name.to_owned(), path.clone())),
            None => return Err(BrokenTemplate::new(&path, None, "has a name that is no UTF-8; rename it")),
        }
    }
    found.sort();
    Ok(found)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the standard delimiters differ from each other"),
    );
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, state, value| {
        // A JSON null is as good as missing.
        if value.is_none() { Ok(()) } else { minijinja::escape_formatter(out, state, value) }
    });
    environment
}

#[derive(Serialize)]
struct Context<'a> {
    event: EventView<'a>,
    recipient: RecipientView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a serde_json::Value>,
    tenant: &'a str,
    headline: String,
    preheader: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
}

#[derive(Serialize)]
struct EventView<'a> {
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    time: String,
    notification: String,
}

#[derive(Serialize)]
struct RecipientView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
}

impl<'a> Context<'a> {
    fn new(config: &'a MailConfig, event: &'a Event, recipient: &'a Recipient, now: Timestamp) -> Self {
        let (document, data) = (event.document(), event.data());
        let title = data.title.as_deref().map(printable);
        let body = data.body.as_deref().map(printable);
        Self {
            event: EventView {
                id: &document.id,
                source: &document.source,
                event_type: &document.event_type,
                time: document.time.unwrap_or(now).to_string(),
                notification: event.notification_id().to_string(),
            },
            recipient: RecipientView {
                id: recipient.id.as_str(),
                name: recipient.name.as_deref(),
                locale: recipient.locale.as_deref(),
                email: recipient.email.as_deref(),
            },
            url: data.url.as_deref(),
            category: data.category.as_deref(),
            payload: data.payload.as_ref(),
            tenant: data.tenant.as_str(),
            headline: title.clone().unwrap_or_else(|| in_words(&document.event_type)),
            preheader: one_line(body.as_deref().unwrap_or_default(), PREHEADER_CHARS),
            link: data.url.as_deref().and_then(|url| config.link(url)),
            sender: config.from.name.as_deref(),
            title,
            body,
        }
    }

    fn bare(event_type: &'a str, payload: Option<&'a serde_json::Value>) -> Self {
        Self {
            event: EventView {
                id: "sample",
                source: "/sample",
                event_type,
                time: "2026-01-01T00:00:00Z".to_owned(),
                notification: "00000000000000000000000000".to_owned(),
            },
            recipient: RecipientView { id: "sample", name: None, locale: None, email: None },
            title: None,
            body: None,
            url: None,
            category: None,
            payload,
            tenant: "default",
            headline: in_words(event_type),
            preheader: String::new(),
            link: None,
            sender: None,
        }
    }

    fn full(event_type: &'a str, payload: Option<&'a serde_json::Value>) -> Self {
        Self {
            recipient: RecipientView { id: "sample", name: Some("Sample"), locale: Some("en"), email: Some("sample@example.com") },
            title: Some("A title".to_owned()),
            body: Some("A body\nof two lines".to_owned()),
            url: Some("/sample"),
            category: Some("samples"),
            headline: "A title".to_owned(),
            preheader: "A body of two lines".to_owned(),
            link: Some("https://example.com/sample".to_owned()),
            sender: Some("Sample"),
            ..Self::bare(event_type, payload)
        }
    }
}

/// Without control characters but line ends and tabs, which no mail client shows and some obey.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// `publication.permission_granted` as `Publication permission granted`.
fn in_words(event_type: &str) -> String {
    let words: Vec<&str> = event_type.split(['.', '_', '-', '/', ':']).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    let mut chars = line.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => event_type.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::config::MailSettings;

    fn config() -> MailConfig {
        let settings = MailSettings::from("Example <news@example.com>");
        MailConfig::new(MailSettings { base_url: Some("https://app.example.com".to_owned()), ..settings }).unwrap()
    }

    fn event(data: serde_json::Value) -> Event {
        let mut full = json!({"recipients": [{"id": "alice", "email": "alice@example.com", "name": "Alice"}], "channels": ["email"]});
        full.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        let event = json!({
            "specversion": "1.0", "id": "01JD", "source": "/publications", "type": "publication.permission_granted",
            "time": "2026-11-24T10:00:00Z", "data": full
        });
        Event::from_value(event).unwrap()
    }

    fn sample() -> Event {
        event(json!({
            "title": "You can now view Q3 plan", "category": "permissions", "url": "/publications/42",
            "body": "Bia gave you access to the plan.\nComments are open until Friday, and the numbers are still a draft.",
        }))
    }

    fn render(templates: &Templates, event: &Event, locale: Option<&str>) -> Outcome<Rendered> {
        let recipient = Recipient { locale: locale.map(str::to_owned), ..event.data().recipients[0].clone() };
        templates.render(&config(), event, &recipient, Timestamp::UNIX_EPOCH)
    }

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, source) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, source).unwrap();
        }
        folder
    }

    fn load(files: &[(&str, &str)]) -> Result<Templates, BrokenTemplate> {
        Templates::load(Some(folder(files).path()))
    }

    fn refused(files: &[(&str, &str)]) -> (String, Option<usize>, String) {
        let folder = folder(files);
        let BrokenTemplate { file, line, reason } = Templates::load(Some(folder.path())).unwrap_err();
        (file.strip_prefix(folder.path()).unwrap_or(&file).display().to_string(), line, reason)
    }

    #[test]
    fn the_default_mail_looks_as_it_was_approved() {
        let mail = render(&Templates::load(None).unwrap(), &sample(), None).unwrap();
        assert_eq!(mail.subject, "You can now view Q3 plan");
        insta::assert_snapshot!("default_text", mail.text);
        insta::assert_snapshot!("default_html", mail.html);
    }

    #[test]
    fn an_event_with_nothing_to_say_still_makes_a_mail() {
        let mail = render(&Templates::load(None).unwrap(), &event(json!({})), None).unwrap();
        assert_eq!(mail.subject, "Publication permission granted");
        assert_eq!(mail.text, "Publication permission granted\n\n-- \nExample\n");
        assert!(!mail.html.contains("href") && !mail.html.contains("none<"), "{}", mail.html);
    }

    #[test]
    fn nothing_in_the_default_mail_is_loaded_from_elsewhere() {
        let mail = render(&Templates::load(None).unwrap(), &event(json!({"title": "t"})), None).unwrap();
        for remote in ["src=", "url(", "@import", "<link", "<script", "https:"] {
            assert!(!mail.html.contains(remote), "{remote}");
        }
    }

    #[test]
    fn what_an_event_says_is_never_a_template() {
        let hostile = event(json!({"title": "{{ 7*7 }}{% raw %}", "body": "{{ recipient.email }}"}));
        let mail = render(&Templates::load(None).unwrap(), &hostile, None).unwrap();
        assert_eq!(mail.subject, "{{ 7*7 }}{% raw %}");
        assert!(mail.text.contains("{{ recipient.email }}") && !mail.text.contains("alice@example.com"));
        assert!(mail.html.contains("{{ 7*7 }}{% raw %}"), "{}", mail.html);
    }

    #[test]
    fn what_an_event_says_is_never_markup() {
        let hostile = event(json!({
            "title": "<script>alert(1)</script>", "body": "a\" onload=\"x\n<b>b</b>", "url": "https://example.com/?a=\"><img>"
        }));
        let mail = render(&Templates::load(None).unwrap(), &hostile, None).unwrap();
        for markup in ["<script>", "onload=\"", "<b>", "<img>"] {
            assert!(!mail.html.contains(markup), "{markup}");
        }
        assert!(mail.text.contains("<script>alert(1)</script>"), "text is not escaped");
        assert!(mail.html.contains("<br>&lt;b&gt;b"), "lines stay lines: {}", mail.html);
    }

    #[test]
    fn the_locale_falls_back_to_its_language_and_then_to_none() {
        let templates = load(&[
            ("publication.permission_granted/subject.txt", "none"),
            ("publication.permission_granted/pt/subject.txt", "pt"),
            ("publication.permission_granted/pt-BR/subject.txt", "pt-BR"),
            ("default/de/body.txt", "default de"),
        ])
        .unwrap();
        let subject = |locale| render(&templates, &sample(), locale).unwrap().subject;
        assert_eq!([Some("pt-br"), Some("pt-PT"), Some("pt"), Some("de"), None].map(subject), ["pt-BR", "pt", "pt", "none", "none"]);
        assert_eq!(render(&templates, &sample(), Some("de-AT")).unwrap().text, "default de\n");
        assert!(render(&templates, &sample(), Some("pt")).unwrap().text.starts_with("You can now"));
    }

    #[test]
    fn a_template_sees_the_payload_and_keeps_the_frame() {
        let templates = load(&[
            ("publication.permission_granted/_who.html", "<i>{{ payload.who }}</i>"),
            (
                "publication.permission_granted/body.html",
                "{% extends 'default/body.html' %}{% block content %}{% include 'publication.permission_granted/_who.html' %}{% endblock %}",
            ),
            ("publication.permission_granted/subject.txt", "{{ payload.no.such.thing }}{{ payload.null }}"),
        ])
        .unwrap();
        let mail = render(&templates, &event(json!({"payload": {"who": "<Bia>", "null": null}})), None).unwrap();
        assert!(mail.html.starts_with("<!DOCTYPE html>") && mail.html.contains("<i>&lt;Bia&gt;</i>"), "{}", mail.html);
        assert_eq!(mail.subject, "Publication permission granted", "an empty subject is no subject");
    }

    #[test]
    fn a_broken_template_is_refused_with_file_line_and_reason() {
        let (file, line, reason) = refused(&[("a.b/body.txt", "one\n{% if title %}\n{{ title }")]);
        assert_eq!((file.as_str(), line), ("a.b/body.txt", Some(3)));
        assert!(reason.starts_with("syntax error: "), "{reason}");
        let (file, line, reason) = refused(&[("a.b/pt/subject.txt", "one\n{{ titel }}")]);
        assert_eq!((file.as_str(), line), ("a.b/pt/subject.txt", Some(2)));
        assert!(reason.starts_with("there is no `titel`; there are event, "), "{reason}");
        let (file, line, reason) = refused(&[("a.b/body.html", "\n{{ title|nosuch }}")]);
        assert_eq!((file.as_str(), line), ("a.b/body.html", Some(2)));
        assert!(reason.contains("nosuch"), "{reason}");
        let (file, _, reason) = refused(&[("a.b/body.html", "{% include 'a.b/_x.html' %}"), ("a.b/_x.html", "\n\n{{ payload.a + 1 }}")]);
        assert_eq!(file, "a.b/_x.html");
        assert!(reason.contains("sample.json"), "{reason}");
    }

    #[test]
    fn a_template_that_needs_a_payload_brings_one() {
        let template = ("a.b/subject.txt", "{{ payload.count + 1 }}");
        assert!(load(&[template]).is_err());
        assert!(load(&[template, ("a.b/sample.json", r#"{"count": 1}"#)]).is_ok());
        assert_eq!(refused(&[template, ("a.b/sample.json", "{")]).0, "a.b/sample.json");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert_eq!(refused(&[("a.b/subjct.txt", "x")]).0, "a.b/subjct.txt");
        assert_eq!(refused(&[("subject.txt", "x")]).0, "subject.txt");
        assert_eq!(refused(&[("a.b/not a locale/subject.txt", "x")]).0, "a.b/not a locale");
        assert!(load(&[("a.b/.DS_Store", "x"), (".git/config", "x")]).is_ok());
        assert!(
            Templates::load(Some(Path::new("/no/such/folder"))).unwrap_err().to_string().starts_with("/no/such/folder: cannot be read")
        );
    }

    #[test]
    fn a_template_that_never_ends_is_a_failure_for_good_that_quotes_nothing() {
        let templates =
            load(&[("default/subject.txt", "{% for a in payload %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}")]).unwrap();
        let failure = render(&templates, &event(json!({"payload": vec!["secret"; 100]})), None).unwrap_err();
        assert!(!failure.is_transient());
        assert_eq!(failure.reason(), "template default/subject.txt line 1 does not render: engine ran out of fuel");
    }

    proptest! {
        #[test]
        fn an_arbitrary_template_is_judged_without_a_panic(source in "[{}%# a-z.|'\"\\n-]{0,60}") {
            let _judged = load(&[("a.b/body.html", &source)]).is_ok();
        }

        #[test]
        fn an_arbitrary_type_and_locale_find_a_template(event_type in ".{0,40}", locale in ".{0,20}") {
            let templates = Templates::load(None).unwrap();
            prop_assert_eq!(templates.find(Part::Html, &event_type, Some(&locale)), "default/body.html");
            prop_assert!(!in_words(&event_type).contains('_') || event_type.trim_matches(['.', '_', '-', '/', ':']).is_empty());
        }
    }
}
