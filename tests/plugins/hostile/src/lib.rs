//! A plugin that does to the router whatever its config says. It goes past the SDK, which would not let it.
#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "exports of the component, as generated from wit/")]
#![allow(clippy::unwrap_used, reason = "to fail is its purpose")]

use std::sync::{Mutex, OnceLock};

use sluice_plugin::__rt::transform_bindings;
use sluice_plugin::{Level, log};
use transform_bindings::exports::sluice::plugin::transform::{Guest, Output};
use transform_bindings::sluice::plugin::types::{Batch, Config, RecordError};

struct Hostile;

static BEHAVIOUR: OnceLock<String> = OnceLock::new();
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Guest for Hostile {
    fn init(config: Config) -> Result<(), String> {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        let behaviour = config.json.trim_matches('"').to_owned();
        match behaviour.as_str() {
            "init-err" => return Err("config key behaviour: no".into()),
            "init-panic" => panic!("no start"),
            "init-loop" => spin(),
            _ => {}
        }
        BEHAVIOUR.set(behaviour).map_err(|_| "twice".to_owned())
    }

    fn process(batch: Batch) -> Result<Output, String> {
        let mut output = Output { verdicts: Vec::new(), routes: Vec::new(), replaced: Vec::new(), errors: Vec::new() };
        let count = batch.count as usize;
        let is_poisoned = || batch.records.windows(6).any(|window| window == b"poison");
        match BEHAVIOUR.get().unwrap().as_str() {
            "loop" => spin(),
            "recurse" => drop(recurse(count as u64)),
            "memory" => loop {
                KEPT.lock().unwrap().push(vec![1; 1 << 20]);
            },
            "leak" => KEPT.lock().unwrap().push(vec![1; 1 << 20]),
            "panic" => panic!("always"),
            "poison-panic" if is_poisoned() => panic!("cannot stand poison\nand says so"),
            "poison-loop" if is_poisoned() => spin(),
            "poison-err" if is_poisoned() => return Err("poisoned batch".into()),
            // None at all would mean: keep every record.
            "few-verdicts" => output.verdicts = vec![1; if count == 1 { 2 } else { count - 1 }],
            "many-verdicts" => output.verdicts = vec![1; count + 1],
            "unknown-verdict" => output.verdicts = vec![77; count],
            "forged-frames" => {
                output.verdicts = vec![2; count];
                output.replaced = vec![0xff; 9];
            }
            "missing-frames" => output.verdicts = vec![2; count],
            "error-index" => output.errors.push(RecordError { index: u32::MAX, message: "x".into() }),
            "route" => output.routes = vec![9; count],
            "huge-output" => output.replaced = vec![0; 8 << 20],
            "log-flood" => (0..10_000).for_each(|_| log(Level::Warn, "\u{1b}[31mERROR fake line\n")),
            "log-huge" => log(Level::Info, &"x".repeat(1 << 19)),
            _ => {}
        }
        Ok(output)
    }
}

fn spin() -> ! {
    loop {
        std::hint::black_box(());
    }
}

#[expect(unconditional_recursion, reason = "its purpose")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(frame[0] + 1) + frame[1]
}

transform_bindings::export_transform!(Hostile with_types_in sluice_plugin::__rt::transform_bindings);

const MANIFEST_TEXT: &[u8; 55] = br#"{"kind":"transform","name":"hostile","version":"0.1.0"}"#;

#[used]
#[unsafe(link_section = "sluice:manifest")]
static MANIFEST: [u8; 55] = *MANIFEST_TEXT;
