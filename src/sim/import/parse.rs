//! A file's text to objects: one document after the other, YAML or JSON. Nothing that is wrong is passed over: what could
//! be a file that was cut short is an error, or, where nobody can tell, a warning.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error as YamlError, Options};

use super::Import;
use super::document::{Body, Found};
use super::error::{AGAIN, EXPORT, ImportError, Place, excerpt};
use super::kinds::{self, Verdict};
use super::split::{self, Piece};
use super::text::{MESSAGE, is_message};

/// Deeper than any object; below what the parsers' stacks bear.
const DEEPEST: usize = 64;
/// What a list has beside its items.
const OF_A_LIST: [&str; 3] = ["apiVersion", "kind", "metadata"];
const NO_ALIASES: &str =
    "kubectl writes no anchors, aliases and merge keys: write their contents out, or export the file again";

/// Reads all documents of a file.
pub(super) fn file(file: &Path, text: &str, into: &mut Import) -> Result<(), ImportError> {
    let mut at = Place { file: Arc::new(file.to_owned()), document: 0, item: None, line: None, object: None };
    let pieces = split::documents(text);
    if pieces.is_empty() {
        return Err(ImportError::Empty { file: file.to_owned() });
    }
    let last = pieces.len();
    for (piece, number) in pieces.iter().zip(1..) {
        at.document += 1;
        let line = piece.first_line();
        if piece.is_empty() {
            let at = Place { line: Some(line), ..at.clone() };
            into.warn(format!("{at}: nothing in this document; compare it with the cluster"));
        } else if is_json(piece.text) {
            json(piece, &mut at, into).map_err(|error| foreign_first(error, text))?;
        } else {
            let is_whole = yaml(piece, &at, into).map_err(|error| foreign_first(error, text))?;
            if number == last && !is_whole && !piece.is_ended {
                may_be_cut(piece, Place { line: Some(line), ..at.clone() }, into)?;
            }
        }
    }
    Ok(())
}

/// A bare object in YAML may end anywhere at a line's end, and be none the worse to look at.
fn may_be_cut(piece: &Piece<'_>, at: Place, into: &mut Import) -> Result<(), ImportError> {
    if !piece.text.ends_with('\n') {
        return Err(ImportError::Syntax {
            at,
            cause: "the file ends within a line, so it may have been cut short".to_owned(),
            cure: AGAIN,
        });
    }
    into.warn(format!(
        "{at}: the file ends with a single object, and nobody can tell whether it was cut short; export one list, or end \
         the file with a line of three dots"
    ));
    Ok(())
}

/// A syntax error in a file that was never an export is no news about its syntax.
fn foreign_first(error: ImportError, text: &str) -> ImportError {
    if let ImportError::Syntax { at, cause, .. } = &error
        && !text.contains("apiVersion")
    {
        let what = format!("this is no export of Kubernetes objects, it has no apiVersion ({cause})");
        return ImportError::Foreign { at: at.clone(), what, cure: EXPORT };
    }
    error
}

fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    match text.strip_prefix('{') {
        Some(rest) => rest.trim_start().starts_with(['"', '}']) || rest.trim_start().is_empty(),
        None => text.starts_with('[') && text.trim_start_matches(['[', ' ', '\n', '\r']).starts_with('{'),
    }
}

fn json(piece: &Piece<'_>, at: &mut Place, into: &mut Import) -> Result<(), ImportError> {
    // JSON needs no marks: each value of the piece is a document of its own.
    let stream = serde_json::Deserializer::from_str(piece.text).into_iter::<Found>();
    for (next, number) in stream.zip(at.document..) {
        at.document = number;
        let found = next.map_err(|error| {
            let line = Some(piece.lines_before + small(error.line()));
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            let cause = if error.is_eof() {
                "the JSON ends before it is complete: the file was cut short".to_owned()
            } else {
                format!("this is no JSON that kubectl writes: {}", excerpt(what))
            };
            ImportError::Syntax { at: Place { line, ..at.clone() }, cause, cure: AGAIN }
        })?;
        Lines(0).take(found, at, into)?;
    }
    Ok(())
}

/// Whether the document is certainly whole.
fn yaml(piece: &Piece<'_>, at: &Place, into: &mut Import) -> Result<bool, ImportError> {
    let found: Found = serde_saphyr::from_str_with_options(piece.text, options(piece.text.len()))
        .map_err(|error| yaml_error(&error, piece, at))?;
    let is_whole = matches!(&found, Found::Body(body) if body.is_closed);
    let mut start = at.clone();
    start.line = Some(piece.first_line());
    Lines(piece.lines_before).take(found, &start, into)?;
    Ok(is_whole)
}

fn options(size: usize) -> Options {
    let budget = serde_saphyr::budget! {
        // Every node takes at least a byte, and has at most two events: these can only stop what is no file.
        max_events: size.saturating_mul(2).saturating_add(64),
        max_nodes: size.saturating_add(64),
        max_total_scalar_bytes: size.saturating_add(64),
        max_depth: DEEPEST,
        max_documents: 1,
        max_aliases: 0,
        max_anchors: 0,
        max_merge_keys: 0,
        simple_key_max_lookahead: 1024,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        // kubectl quotes what YAML 1.1 takes for a boolean, so `on` without quotes is a text.
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    }
}

fn yaml_error(error: &YamlError, piece: &Piece<'_>, at: &Place) -> ImportError {
    let line = error.location().map(|location| piece.lines_before + small(location.line()));
    // One with a second colon is no YAML any more.
    let at_fault = error.location().and_then(|location| nth_line(piece.text, location.line()));
    if let Some(text) = at_fault.filter(|text| is_message(text)) {
        return told_beside(&Place { line, ..at.clone() }, text);
    }
    let (mut cause, cure) = told(error);
    let last_line = piece.lines_before + small(piece.text.lines().count());
    let is_broken_off = matches!(error, YamlError::ExternalMessage { .. } | YamlError::Eof { .. });
    if is_broken_off && line.is_some_and(|line| line >= last_line) {
        cause.push_str(", at the end of the document: was the file cut short?");
    }
    ImportError::Syntax { at: Place { line, ..at.clone() }, cause, cure }
}

/// Cause and cure; the parser's words where it has no limit of ours to speak of.
fn told(error: &YamlError) -> (String, &'static str) {
    if let YamlError::Budget { breach, .. } = error {
        if let BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } | BudgetBreach::MergeKeys { .. } =
            breach
        {
            return ("there is an anchor, an alias or a merge key".to_owned(), NO_ALIASES);
        }
        if let BudgetBreach::Depth { .. } = breach {
            let cause = format!("something is nested deeper than {DEEPEST} levels");
            return (cause, "leave this kind out of the export: no kind that is used nests so deeply");
        }
    }
    if let YamlError::MergeKeyNotAllowed { .. } | YamlError::UnknownAnchor { .. } = error {
        return ("there is an anchor, an alias or a merge key".to_owned(), NO_ALIASES);
    }
    if let YamlError::DuplicateMappingKey { key, .. } = error {
        let key = excerpt(key.as_deref().unwrap_or_default());
        return (format!("the key {key} is there twice"), AGAIN);
    }
    let text = error.to_string();
    // The place is ours to tell: the parser counts from the document's begin.
    let text = text.lines().next().unwrap_or_default();
    let what = text.rsplit_once(" at line ").map_or(text, |(what, _)| what).trim_end_matches(':');
    (format!("this is no YAML that kubectl writes: {}", excerpt(what)), AGAIN)
}

/// The line of this number, from 1.
fn nth_line(text: &str, number: impl TryInto<usize>) -> Option<&str> {
    text.lines().nth(number.try_into().ok()?.checked_sub(1)?)
}

fn small(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// Lines before the document that is taken apart.
struct Lines(u32);

impl Lines {
    fn take(&self, found: Found, at: &Place, into: &mut Import) -> Result<(), ImportError> {
        let body = match found {
            Found::Body(body) => *body,
            Found::Unused(kind) => {
                into.ignore(kind);
                return Ok(());
            }
            Found::Other(what) => {
                return Err(foreign(at, format!("this is {what}, not a Kubernetes object")));
            }
            Found::Empty => return Err(foreign(at, "there is nothing where an object should be".to_owned())),
        };
        if body.items.is_some() { self.take_list(body, at, into) } else { take_object(body, at, into) }
    }

    fn take_list(&self, mut body: Body, at: &Place, into: &mut Import) -> Result<(), ImportError> {
        let items = body.items.take().unwrap_or_default();
        let Some(item_kind) = body.text("kind").and_then(|kind| kind.strip_suffix("List")) else {
            let kind =
                body.text("kind").map_or("no kind".to_owned(), |kind| format!("kind {}", excerpt(kind)));
            let cause =
                format!("a list of items, but with {kind} instead of kind List: the file was cut short");
            return Err(ImportError::Syntax { at: at.clone(), cause, cure: AGAIN });
        };
        if let Some((key, value)) = body.fields.iter().find(|(key, _)| !OF_A_LIST.contains(&key.as_str())) {
            return Err(beside(at, key, value));
        }
        let api_version = body.text("apiVersion").unwrap_or_default();
        for (item, number) in items.into_iter().zip(1..) {
            let line = Some(small(item.referenced.line())).filter(|line| *line > 0).map(|line| self.0 + line);
            let at = Place { item: Some(number), line, ..at.clone() };
            let found = match item.value {
                // The API itself leaves kind and version out of the items of a typed list.
                Found::Body(mut body) if !item_kind.is_empty() && body.text("kind").is_none() => {
                    body.fields.insert("kind".to_owned(), Value::from(item_kind));
                    body.fields.entry("apiVersion").or_insert_with(|| Value::from(api_version));
                    kinds::unused(&body).map_or(Found::Body(body), Found::Unused)
                }
                found @ (Found::Body(_) | Found::Unused(_) | Found::Other(_) | Found::Empty) => found,
            };
            self.take(found, &at, into)?;
        }
        Ok(())
    }
}

/// At the end of a list or an object, a line of kubectl's about what it could not get looks like one more field.
fn beside(at: &Place, key: &str, value: &Value) -> ImportError {
    told_beside(at, &value.as_str().map_or_else(|| key.to_owned(), |value| format!("{key}: {value}")))
}

fn told_beside(at: &Place, text: &str) -> ImportError {
    let what = format!(
        "\"{}\" stands beside the objects and is none of their fields: the export is incomplete",
        excerpt(text)
    );
    ImportError::Foreign { at: at.clone(), what, cure: MESSAGE }
}

fn take_object(body: Body, at: &Place, into: &mut Import) -> Result<(), ImportError> {
    let keys = || {
        let mut keys: Vec<String> = body.fields.keys().take(5).map(|key| excerpt(key)).collect();
        keys.sort_unstable();
        keys.join(", ")
    };
    let Some(kind) = body.text("kind") else {
        if body.fields.contains_key("upgradeName") && body.fields.contains_key("rke2") {
            let cure = "give it to plan, preflight or run with --plan; for a rehearsal, export a cluster as \
                        docs/rehearse.md shows";
            return Err(ImportError::Foreign {
                at: at.clone(),
                what: "this is a plan of one node".to_owned(),
                cure,
            });
        }
        if body.fields.contains_key("apiVersion") {
            let cure = AGAIN;
            let cause = "it is missing, or no text".to_owned();
            return Err(ImportError::Field { at: at.clone(), field: "kind".to_owned(), cause, cure });
        }
        return Err(foreign(
            at,
            format!("this has no kind, so it is no Kubernetes object; its keys are {}", keys()),
        ));
    };
    let api_version = body.text("apiVersion").unwrap_or_default();
    match (api_version, kind) {
        ("v1", "Config") if body.fields.contains_key("clusters") || body.fields.contains_key("users") => {
            return Err(foreign(at, "this is a kubeconfig".to_owned()));
        }
        ("v1", "Status") => {
            let message = excerpt(body.text("message").unwrap_or_default());
            return Err(foreign(at, format!("this is an answer of the API server, \"{message}\"")));
        }
        (_, "Table") => {
            let what = "this is a table".to_owned();
            return Err(ImportError::Foreign { at: at.clone(), what, cure: "export again with -o yaml" });
        }
        _ => {}
    }
    if let Some((key, value)) = body.message() {
        return Err(beside(at, key, value));
    }
    let kind_label = excerpt(kind);
    let field = |field: &str, cause: String| ImportError::Field {
        at: Place { object: Some(kind_label.clone().into()), ..at.clone() },
        field: field.to_owned(),
        cause,
        cure: AGAIN,
    };
    if api_version.is_empty() {
        return Err(field("apiVersion", "it is missing, or no text".to_owned()));
    }
    match kinds::find(api_version, kind) {
        Verdict::Used(kind) => into.take(kind, Value::Object(body.fields), at.clone()),
        Verdict::Unused => {
            into.ignore(kinds::label(api_version, kind));
            Ok(())
        }
        Verdict::OtherVersion(known) => {
            let cause = format!("{} is not read, only version {}", excerpt(api_version), known.join(" or "));
            Err(field("apiVersion", cause))
        }
    }
}

fn foreign(at: &Place, what: String) -> ImportError {
    ImportError::Foreign { at: at.clone(), what, cure: EXPORT }
}
