mod local;
mod server;

use std::collections::HashMap;
use std::error::Error as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use server::{COMMIT, Entry, Reply, Request, Server, hub};

const TOKEN: &str = "hf_secretsecret";

/// A hub, its file server, an empty cache, and options for them.
struct Setting {
    hub: Server,
    files: Server,
    cache: TempDir,
    options: HubOptions,
}

impl Setting {
    fn new(entries: &[Entry], answer: impl Fn(&Request, Option<&Entry>) -> Reply + Send + Sync + 'static) -> Self {
        let all = entries.to_vec();
        let files = Server::new(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            answer(request, all.iter().find(|entry| path.strip_prefix('/') == Some(entry.path)))
        });
        let hub = Server::new(hub(entries.to_vec(), files.url()));
        let cache = tempfile::tempdir().unwrap();
        let mut options = HubOptions::new(cache.path());
        options.endpoint = hub.url();
        options.stall_timeout = Duration::from_secs(2);
        Self { hub, files, cache, options }
    }

    fn resolve(&self) -> Result<PathBuf, HubError> {
        resolve("org/tiny", &self.options, go_on)
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("models--org--tiny")
    }

    /// The names in one of the cache's folders.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder().join(folder)).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>();
        names.sort();
        names
    }
}

fn go_on(_: HubProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The file server when it works.
fn served(request: &Request, entry: Option<&Entry>) -> Reply {
    entry.map_or_else(|| Reply::new(404, ""), |entry| Reply::file(request, &entry.bytes))
}

fn single() -> Vec<Entry> {
    vec![
        Entry::small("README.md", "# Tiny"),
        Entry::small("additional_chat_templates/rag.jinja", "rag"),
        Entry::small("additional_chat_templates/notes.txt", "no template"),
        Entry::small("chat_template.jinja", "{{ messages }}"),
        Entry::small("config.json", r#"{"model_type":"llama"}"#),
        Entry::large("model.safetensors", 1),
        Entry::large("original/consolidated.00.pth", 2),
        Entry::large("pytorch_model.bin", 3),
        Entry::small("tokenizer.json", "{}"),
    ]
}

fn sharded() -> Vec<Entry> {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}"#;
    vec![
        Entry::small("config.json", "{}"),
        Entry::large("model-1.safetensors", 1),
        Entry::large("model-2.safetensors", 2),
        Entry::large("model-3.safetensors", 3),
        Entry::small("model.safetensors.index.json", index),
    ]
}

/// The message of an error and of all its causes, in both forms.
fn text(error: &HubError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" / {error}");
        source = error.source();
    }
    text
}

fn refused(outcome: Result<PathBuf, HubError>) -> HubError {
    match outcome {
        Err(error) => error,
        Ok(folder) => panic!("{}", folder.display()),
    }
}

#[test]
fn downloads_what_a_model_needs_and_then_finds_it_without_network() {
    let mut setting = Setting::new(&single(), served);
    setting.options.token = HubToken::new(TOKEN);
    let mut last = HashMap::new();
    let mut all = (0, 0);
    let folder = resolve("org/tiny", &setting.options, |progress| {
        if let HubProgress::File { name, done, total, all_done, all_total } = progress {
            assert!(done <= total && all_done <= all_total && all_done >= all.0);
            assert!(last.insert(name, (done, total)).is_none_or(|(before, _)| before <= done));
            all = (all_done, all_total);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(folder, setting.folder().join("snapshots").join(COMMIT));
    let wanted =
        ["additional_chat_templates", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(setting.names(&format!("snapshots/{COMMIT}")), wanted);
    for entry in single() {
        match fs::read(folder.join(entry.path)) {
            Ok(bytes) => {
                assert!(bytes == entry.bytes && last[entry.path] == (bytes.len() as u64, bytes.len() as u64));
                let blob = fs::canonicalize(folder.join(entry.path)).unwrap();
                assert_eq!(blob, fs::canonicalize(setting.folder().join("blobs").join(entry.blob())).unwrap());
                assert!(cfg!(not(unix)) || fs::read_link(folder.join(entry.path)).unwrap().is_relative());
            }
            Err(_) => assert!(!last.contains_key(entry.path)),
        }
    }
    assert_eq!(setting.names("blobs").len(), 5);
    assert_eq!(fs::read_to_string(setting.folder().join("refs/main")).unwrap(), COMMIT);
    assert!(all.0 == all.1 && all.0 == last.values().map(|(_, total)| total).sum::<u64>());

    let bearer = format!("Bearer {TOKEN}");
    assert!(setting.hub.requests().iter().all(|request| request.header("authorization") == Some(bearer.as_str())));
    let fetched = setting.files.requests();
    assert!(fetched.iter().all(|request| request.header("authorization").is_none()));
    assert!(fetched.iter().all(|request| request.path.starts_with("/model.safetensors")));

    for name in ["org/tiny", "org/tiny@main", &format!("org/tiny@{COMMIT}")] {
        assert_eq!(resolve(name, &setting.options, |_| unreachable!()).unwrap(), folder);
    }
    assert!(setting.hub.requests().is_empty());
}

#[test]
fn another_revision_shares_the_contents() {
    let setting = Setting::new(&single(), served);
    let folder = setting.resolve().unwrap();
    setting.files.requests();
    assert_eq!(resolve("org/tiny@refs/pr/1", &setting.options, go_on).unwrap(), folder);
    assert!(setting.files.requests().is_empty() && setting.folder().join("refs/refs/pr/1").is_file());
    let error = refused(resolve("org/tiny@v2", &setting.options, go_on));
    assert!(error.to_string().ends_with("has no revision v2 of org/tiny"), "{error}");
}

#[test]
fn shards_come_by_the_index_and_count_for_completeness() {
    let mut setting = Setting::new(&sharded(), served);
    let folder = setting.resolve().unwrap();
    let names = ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(setting.names(&format!("snapshots/{COMMIT}")), names);
    assert!(setting.hub.requests().iter().all(|request| request.header("authorization").is_none()));

    setting.options.offline = true;
    assert_eq!(setting.resolve().unwrap(), folder, "it is known to have no tokenizer");
    fs::remove_file(setting.folder().join("blobs").join(sharded()[2].blob())).unwrap();
    let error = refused(setting.resolve()).to_string();
    assert!(
        error.contains("model-2.safetensors") && error.contains("org/tiny") && error.contains("offline"),
        "{error}"
    );
    setting.options.offline = false;
    setting.resolve().unwrap();
    fs::remove_dir_all(setting.folder().join(".no_exist")).unwrap();
    setting.options.offline = true;
    let error = refused(setting.resolve()).to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_broken_connection_is_taken_up_again() {
    let setting = Setting::new(&single(), |request, entry| served(request, entry).cut(40_000));
    let folder = setting.resolve().unwrap();
    assert!(fs::read(folder.join("model.safetensors")).unwrap() == single()[5].bytes);
    let gets = setting.files.requests().into_iter().filter(|request| request.method == "GET");
    let starts = gets.map(|request| request.start().unwrap_or(0)).collect::<Vec<_>>();
    assert!(starts.len() >= 3 && starts[0] == 0 && starts.is_sorted() && starts[1] > 0, "{starts:?}");
}

#[test]
fn half_a_file_is_never_visible_and_is_completed_later() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let setting = Setting::new(&single(), move |request, entry| match request.method.as_str() {
        "HEAD" => served(request, entry),
        // Half of it once, nothing for a while, then all of it.
        _ => match counted.fetch_add(1, Ordering::SeqCst) {
            0 => served(request, entry).cut(50_000),
            1..6 => Reply::new(503, "busy"),
            _ => served(request, entry),
        },
    });
    let error = setting.resolve().unwrap_err();
    assert!(text(&error).contains("503") && !text(&error).contains("signed"), "{}", text(&error));
    let blob = single()[5].blob();
    let (blob, part) = (setting.folder().join("blobs").join(&blob), format!("{blob}.incomplete"));
    assert!(!blob.exists() && setting.names("blobs").contains(&part));
    assert!(!setting.names(&format!("snapshots/{COMMIT}")).contains(&"model.safetensors".into()));
    assert!(!setting.folder().join("refs").exists());

    tries.store(6, Ordering::SeqCst);
    setting.files.requests();
    setting.resolve().unwrap();
    assert!(fs::read(blob).unwrap() == single()[5].bytes && !setting.names("blobs").contains(&part));
    let starts = setting.files.requests().iter().filter_map(Request::start).collect::<Vec<_>>();
    assert!(starts.len() == 1 && starts[0] > 0, "{starts:?}");
}

#[test]
fn a_server_without_ranges_starts_over() {
    let setting = Setting::new(&single(), |_, entry| Reply::new(200, entry.unwrap().bytes.clone()));
    let part = setting.folder().join("blobs").join(single()[5].blob() + ".incomplete");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &single()[5].bytes[..1000]).unwrap();
    let folder = setting.resolve().unwrap();
    assert!(fs::read(folder.join("model.safetensors")).unwrap() == single()[5].bytes);
}

#[test]
fn wrong_contents_are_found_out() {
    let wrong = |_: &Request, entry: Option<&Entry>| Reply::new(200, vec![7; entry.unwrap().bytes.len()]);
    let setting = Setting::new(&single(), wrong);
    let error = refused(setting.resolve());
    assert!(matches!(&error, HubError::Corrupt { file, .. } if file == "model.safetensors"), "{error}");
    assert_eq!(setting.names("blobs").len(), 4, "the small files");

    let long = |request: &Request, entry: Option<&Entry>| {
        let reply = served(request, entry);
        Reply { body: [reply.body, vec![0; 9]].concat(), ..reply }
    };
    let error = refused(Setting::new(&single(), long).resolve());
    assert!(matches!(&error, HubError::Corrupt { .. }), "{error}");

    // A wrong part of an earlier download only costs a second attempt.
    for length in [1000, 100_000, 150_000] {
        let setting = Setting::new(&single(), served);
        let part = setting.folder().join("blobs").join(single()[5].blob() + ".incomplete");
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, vec![9; length]).unwrap();
        let folder = setting.resolve().unwrap();
        assert!(fs::read(folder.join("model.safetensors")).unwrap() == single()[5].bytes);
    }
}

#[test]
fn what_is_no_model_or_not_there_is_said() {
    let bin = [Entry::small("config.json", "{}"), Entry::large("pytorch_model.bin", 1)];
    let error = refused(Setting::new(&bin, served).resolve()).to_string();
    assert!(error.contains("no model.safetensors") && error.contains("pytorch_model.bin"), "{error}");
    let bare = [Entry::large("model.safetensors", 1)];
    let error = refused(Setting::new(&bare, served).resolve()).to_string();
    assert!(error.contains("no config.json"), "{error}");
    let mut lacking = sharded();
    lacking.remove(2);
    let error = refused(Setting::new(&lacking, served).resolve()).to_string();
    assert!(error.contains("no model-2.safetensors"), "{error}");
    let setting = Setting::new(&single(), served);
    let error = refused(resolve("org/none", &setting.options, go_on));
    assert!(matches!(&error, HubError::NotFound { repo, .. } if repo == "org/none"), "{error}");
}

#[test]
fn closed_models_ask_for_a_token_and_never_show_it() {
    let mut setting = Setting::new(&[], served);
    for (status, code, token, said) in [
        (401, "GatedRepo", None, "then set HF_TOKEN"),
        (403, "GatedRepo", Some(TOKEN), "token's account has no access"),
        (401, "RepoNotFound", None, "or set HF_TOKEN"),
        (401, "", Some(TOKEN), "token is not valid"),
    ] {
        let hub = Server::new(move |request| {
            let sent = request.header("authorization").unwrap_or_default().to_owned();
            Reply::new(status, format!(r#"{{"error":"{sent}"}}"#)).with("X-Error-Code", code)
        });
        setting.options.endpoint = hub.url();
        setting.options.token = token.and_then(HubToken::new);
        let error = setting.resolve().unwrap_err();
        let text = format!("{} {:?}", text(&error), setting.options);
        assert!(text.contains(said) && text.contains("org/tiny") && !text.contains(TOKEN), "{text}");
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn a_hub_out_of_reach_is_said_at_once() {
    let mut setting = Setting::new(&single(), served);
    let start = Instant::now();
    setting.options.endpoint = "http://127.0.0.1:1".into();
    let error = setting.resolve().unwrap_err();
    let said = text(&error);
    assert!(matches!(&error, HubError::Unreachable { .. }), "{said}");
    assert!(said.contains("org/tiny is neither a local folder nor in the cache"), "{said}");
    setting.options.endpoint = "not an address".into();
    assert!(matches!(refused(setting.resolve()), HubError::Failed { .. }));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    // A server that accepts the connection and stays silent.
    let silent = Server::new(|_| {
        std::thread::sleep(Duration::from_secs(3));
        Reply::new(200, "")
    });
    let start = Instant::now();
    setting.options.endpoint = silent.url();
    setting.options.stall_timeout = Duration::from_millis(200);
    assert!(matches!(refused(setting.resolve()), HubError::Unreachable { .. }));
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
}

#[test]
fn a_download_can_be_broken_off_while_nothing_comes() {
    let pause = Some((50_000, Duration::from_secs(3)));
    let setting = Setting::new(&single(), move |request, entry| Reply { pause, ..served(request, entry) });
    let start = Instant::now();
    let mut beats = 0;
    let outcome = resolve("org/tiny", &setting.options, |progress| match progress {
        HubProgress::File { name, done, .. } if name == "model.safetensors" && done > 0 => {
            beats += 1;
            if beats < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(refused(outcome), HubError::Cancelled { .. }));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(setting.names("blobs").iter().any(|name| name.ends_with(".incomplete")));
    let at_once = resolve("org/tiny", &setting.options, |_| ControlFlow::Break(()));
    assert!(matches!(refused(at_once), HubError::Cancelled { .. }));
}

#[test]
fn two_downloads_of_one_model_share_the_work() {
    let setting = Setting::new(&single(), |request, entry| {
        std::thread::sleep(Duration::from_millis(100));
        served(request, entry)
    });
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| setting.resolve().unwrap()));
        both.into_iter().for_each(|one| assert!(one.join().unwrap().is_dir()));
    });
    let gets = setting.files.requests().iter().filter(|request| request.method == "GET").count();
    assert_eq!(gets, 1);
}

#[test]
fn callers_may_be_inside_a_runtime() {
    let setting = Setting::new(&single(), served);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { setting.resolve().unwrap() });
}
