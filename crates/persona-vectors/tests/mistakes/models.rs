//! Models that are missing or incomplete; devices that are not available.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn folders_without_a_usable_model() {
    let world = World::new();
    let empty = world.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let no_config = world.model_without("no-config", &["config.json"]);
    let no_weights = world.model_without("no-weights", &["model.safetensors"]);
    let no_tokenizer = world.model_without("no-tokenizer", &["tokenizer.json"]);
    let no_template = world.model_without("no-template", &["chat_template.jinja"]);
    let pointer = world.pointer("pointer");
    let cut = world.model_with("cut", "model.safetensors", |bytes| bytes[..bytes.len() / 2].to_vec());
    let noise = world.model_with("noise", "model.safetensors", |_| vec![0xff; 4096]);
    let no_json = world.model_with("no-json", "config.json", |_| b"{ \"model_type\": \"qwen2\", ".to_vec());
    let unknown = world.model_with("unknown", "config.json", |bytes| {
        String::from_utf8(bytes).unwrap().replace("\"qwen2\"", "\"mamba\"").into_bytes()
    });
    let wider = world.model_with("wider", "config.json", |bytes| {
        String::from_utf8(bytes)
            .unwrap()
            .replace("\"intermediate_size\": 384", "\"intermediate_size\": 400")
            .into_bytes()
    });
    let tokenizer = world.model_with("bad-tokenizer", "tokenizer.json", |_| b"{}".to_vec());
    let template = world.model_with("bad-template", "chat_template.jinja", |_| b"{% for x in %}".to_vec());
    let clock = world.model_with("clock", "chat_template.jinja", |_| {
        b"{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}".to_vec()
    });
    let no_system = world.model_with("no-system", "chat_template.jinja", |_| {
        b"{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}{% endfor %}".to_vec()
    });
    let file = world.file("model.txt", "not a model");
    let on = |name, folder: &str, says: &[&str]| Mistake::new(name, "extract --contrast", &["--model", folder], says);
    make(
        "folders without a usable model",
        &world,
        vec![
            on("a folder that does not exist", "models/none/at/all", &["models/none/at/all"]),
            on("a file instead of a folder", &file, &["model.txt"]),
            on("an empty folder", empty, &["config.json"]),
            on("a folder without config.json", &no_config, &["config.json"]),
            on("a folder without weights", &no_weights, &["model.safetensors"]),
            on("a folder without tokenizer", &no_tokenizer, &["tokenizer.json"]),
            on("a folder without chat template", &no_template, &["chat template"]),
            on(
                "weights that git-lfs has not fetched",
                &pointer,
                &["model.safetensors: found a git-lfs pointer", "git lfs pull"],
            ),
            on("weights that are cut off", &cut, &["model.safetensors"]),
            on("weights in an invalid format", &noise, &["model.safetensors"]),
            on("a configuration that is cut off", &no_json, &["config.json", "because: "]),
            on("an unsupported architecture", &unknown, &["mamba", "supported"]),
            on("a configuration that does not match the weights", &wider, &["shape", "400"]),
            on("an invalid tokenizer", &tokenizer, &["tokenizer.json"]),
            on("an invalid template", &template, &["chat template", "cannot be parsed"]),
            on("a template that asks for the date", &clock, &["date"]),
            on("a template that refuses system prompts", &no_system, &["system"]),
        ],
    );
}

/// A model of terabytes. Its file is sparse: it contains only the header that claims them.
#[test]
#[cfg(unix)]
fn a_model_too_large_for_memory() {
    let world = World::new();
    let huge = world.too_large("huge");
    let says = ["needs", "GiB of memory in the types of its files", "are available", "smaller", "--ignore-memory"];
    let on = |name, program, args: &[&str]| Mistake::new(name, program, args, &says);
    make(
        "a model too large for memory",
        &world,
        vec![
            on("a model too large for memory", "extract --contrast", &["--model", &huge]),
            on("a model too large to be evaluated", "eval", &[&huge, "--trait", "evil"]),
            on("a judge too large for memory", "judge check", &["--judge", "local", "--judge-model", &huge]),
        ],
    );
}

#[test]
fn unavailable_devices_and_types() {
    let world = World::new();
    let device =
        |name, device: &str, says: &[&str]| Mistake::new(name, "extract --contrast", &["--device", device], says);
    let mut mistakes = vec![
        device("an unknown device", "tpu", &["\"tpu\"", "flex", "cuda"]),
        device("a second CPU", "flex:1", &["flex"]),
        device("an unknown instruction set", "flex", &["PV_SIMD", "\"sse9\"", "avx2"]).with("PV_SIMD", "sse9"),
        Mistake::new("an unknown compute type", "extract --contrast", &["--dtype", "int3"], &["int3", "bf16"]),
        Mistake::new(
            "training all parameters in bf16",
            "train",
            &["--full", "--dtype", "bf16", "--steps", "1"],
            &["BF16"],
        ),
        Mistake::new("training on an unknown device", "train", &["--device", "tpu"], &["tpu"]),
    ];
    if cfg!(not(feature = "wgpu")) {
        mistakes.push(device("a GPU without its feature", "wgpu", &["`wgpu`", "built"]));
    }
    // If a GPU's backend is built in, its driver can be hidden.
    if cfg!(feature = "vulkan") {
        let hidden = device("a GPU without a driver", "vulkan", &["vulkan"]);
        mistakes.push(hidden.with("VK_DRIVER_FILES", "/none").with("VK_ICD_FILENAMES", "/none"));
    }
    if cfg!(feature = "cuda") {
        mistakes.push(device("CUDA without a GPU", "cuda", &["cuda"]).with("CUDA_VISIBLE_DEVICES", "-1"));
    }
    if cfg!(not(feature = "cuda")) {
        mistakes.push(device("CUDA without its feature", "cuda", &["`cuda`", "built"]));
    }
    if cfg!(not(feature = "http")) {
        let server = ["--judge", "http", "--judge-model", "judge-1"];
        mistakes.push(Mistake::new(
            "a judge behind a server without its feature",
            "sweep",
            &server,
            &["`--features http`"],
        ));
    }
    if cfg!(not(feature = "hub")) {
        mistakes.push(Mistake::new(
            "a model on the hub without its feature",
            "chat",
            &["--model", "org/name"],
            &["org/name", "`hub`"],
        ));
        let offline = Mistake::new(
            "a judge on the hub without its feature",
            "sweep",
            &["--judge", "local", "--judge-model", "org/name"],
            &["org/name", "`hub`"],
        );
        mistakes.push(offline);
    }
    make("devices and types", &world, mistakes);
}
