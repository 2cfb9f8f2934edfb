//! Tests without a server.

use super::*;

#[test]
fn a_local_folder_wins() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    let options = HubOptions::new("/nowhere");
    assert_eq!(resolve(name, &options, go_on).unwrap(), folder.path());
    let gone = refused(resolve(&format!("{name}/gone"), &options, go_on));
    assert!(matches!(&gone, HubError::Name { problem: NameProblem::Path, .. }), "{gone}");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let options = HubOptions::new("/nowhere");
    let long = format!("org/{}", "x".repeat(97));
    let names = "|gpt2|a/b/c|/etc/passwd|../up|org/..|org/.hidden|./a|~/models|org/|/name|org/a--b|org--x/y|org/a..b\
        |org/na me|org/na?me|org/na#me|org/na%2e|org\\name|org/é|org/name\n|org/name@|org/name@../../x\
        |org/name@a//b|org/name@-x|org/name@a b|org/n@/x|org/x.git|https://huggingface.co/org/name";
    for name in names.split('|').chain([long.as_str()]) {
        let error = refused(resolve(name, &options, go_on));
        assert!(matches!(error, HubError::Name { .. }), "{name:?}: {error}");
    }
    for name in ["org/name", "a/b", "Qwen/Qwen2.5-0.5B-Instruct", "org/name@refs/pr/1", "org/n@v1.0+x"] {
        assert!(RepoName::parse(name).is_ok(), "{name}");
    }
    assert_eq!(RepoName::parse("org/name@v1").unwrap().to_string(), "org/name@v1");
}

#[test]
fn the_environment_is_read_as_in_python() {
    let options = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| (key.to_string(), value.into())).collect::<HashMap<_, _>>();
        HubOptions::from_variables(|name| pairs.get(name).cloned(), "/user".into())
    };
    let plain = options(&[("HF_HOME", ""), ("HF_TOKEN", " ")]);
    assert_eq!(plain.cache, Path::new("/user/.cache/huggingface/hub"));
    assert!(plain.endpoint == "https://huggingface.co" && plain.token.is_none() && !plain.offline);
    assert_eq!(options(&[("XDG_CACHE_HOME", "/xdg")]).cache, Path::new("/xdg/huggingface/hub"));
    assert_eq!(options(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/xdg")]).cache, Path::new("/user/hf/hub"));
    assert_eq!(options(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
    assert_eq!(options(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
    assert!(options(&[("HF_HUB_OFFLINE", "1")]).offline && options(&[("TRANSFORMERS_OFFLINE", "Yes")]).offline);
    assert!(!options(&[("HF_HUB_OFFLINE", "0")]).offline);

    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let home = home.path().to_str().unwrap();
    assert_eq!(options(&[("HF_HOME", home)]).token, HubToken::new(TOKEN));
    assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", "other")]).token, HubToken::new("other"));
    assert_eq!(options(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    assert_eq!(HubToken::new("two words"), None);
}
