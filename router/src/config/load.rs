//! Loads a configuration file.

use std::path::{Path as FilePath, PathBuf};

use super::Settings;
use super::expand::{Surroundings, expand};
use super::file::{self, Config};
use super::problem::{Place, Problem, Problems};
use super::settings::{resolve_pattern, settings};
use super::shape;
use super::tree::{Node, Path, Value};

/// Largest configuration file.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// A configuration that may be run.
pub struct Loaded {
    pub settings: Settings,
    /// Every key with the value in effect, as YAML: paths resolved, defaults filled in, secrets as they were written
    /// (`${env:NAME}`) or `<redacted>`.
    pub effective: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read configuration {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The author has to mend the file; one line and a help line for each problem.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Loads `file`, taking `${env:...}` from the environment.
pub fn load(file: &FilePath) -> Result<Loaded, Error> {
    load_with(file, &|name| std::env::var(name).ok())
}

/// Loads `file`, taking `${env:...}` from `environment`.
pub fn load_with(file: &FilePath, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Error> {
    let in_file = |source| Error::Read { file: file.to_owned(), source };
    let text = read(file).map_err(in_file)?;
    let folder = std::path::absolute(file).map_err(in_file)?.parent().map(FilePath::to_owned).unwrap_or_default();
    let refuse = |problems| Error::Invalid(Problems::new(file, problems));

    let mut tree = Node::parse(&text).map_err(|problem| refuse(vec![problem]))?;
    if tree.value == Value::Null {
        let problem = Problem::new(Place::START, Path::default(), "the file is empty");
        return Err(refuse(vec![problem.help("start from config/solo.yaml, which explains every key")]));
    }
    let mut problems = expand(&mut tree, &Surroundings { folder: &folder, environment });
    for problem in shape::check(&tree, &file::schema()) {
        // A text whose reference could not be replaced has that one problem, whatever its letters look like.
        if problems.iter().all(|known| known.path != problem.path) {
            problems.push(problem);
        }
    }
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    let mut config: Config = serde_json::from_value(tree.to_json()).map_err(|_| {
        // `shape` found nothing, so this cannot happen; the reason might show a secret, so it stays unsaid.
        let problem = Problem::new(Place::START, Path::default(), "is refused, although it fits the JSON Schema");
        refuse(vec![problem.help("this is a defect of sluice: please report it with the file")])
    })?;
    let agent = complete(&mut config, &folder, environment).map_err(|problem| refuse(vec![problem]))?;
    let settings = settings(&config, &agent, &tree).map_err(refuse)?;
    let effective = print(&config, &mut tree).map_err(|reason| in_file(std::io::Error::other(reason)))?;
    Ok(Loaded { settings, effective })
}

fn read(file: &FilePath) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {FILE_MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Fills in what depends on the host and on where the file lies; returns the agent's name.
fn complete(
    config: &mut Config,
    folder: &FilePath,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Problem> {
    let mut paths = vec![&mut config.data];
    paths.extend(&mut config.schemas.proto_roots);
    paths.extend(&mut config.schemas.descriptor_sets);
    for stream in config.streams.values_mut() {
        paths.extend(stream.transforms.iter_mut().map(|plugin| &mut plugin.path));
        paths.extend(stream.dedup.iter_mut().map(|dedup| &mut dedup.plugin.path));
    }
    for sink in config.sinks.values_mut() {
        match sink {
            file::Sink::Parquet(sink) => paths.push(&mut sink.directory),
            file::Sink::Bigquery(sink) => {
                if let file::BigqueryAuth::ServiceAccountKey(path) = &mut sink.auth {
                    paths.push(path);
                }
            }
            file::Sink::Elasticsearch(_) | file::Sink::Stdout(_) => {}
        }
    }
    if let Some(link) = &mut config.sources.link {
        paths.extend([&mut link.ca_certificate, &mut link.certificate, &mut link.private_key]);
    }
    if let Some(link) = &mut config.link {
        paths.extend([&mut link.ca_certificate, &mut link.certificate, &mut link.private_key]);
    }
    paths.into_iter().for_each(|path| *path = folder.join(&*path));
    for source in config.sources.files.values_mut() {
        let patterns = source.include.iter_mut().chain(&mut source.exclude);
        patterns.for_each(|pattern| *pattern = resolve_pattern(folder, pattern));
    }
    let agent = config.agent.take().or_else(|| host_name(environment)).ok_or_else(|| {
        let problem = Problem::new(Place::START, Path::of(&["agent"]), "is not written, and the host has no name");
        problem.help("write a name that no other node has and that stays when the host is rebuilt")
    })?;
    config.agent = Some(agent.clone());
    Ok(agent)
}

/// The host's name as the kernel has it, else as the environment does.
fn host_name(environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let names = files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let mut names = names.chain(environment("HOSTNAME")).map(|name| name.trim().to_owned());
    names.find(|name| !name.is_empty())
}

/// The configuration in effect. Values with replaced references are shown as they were written.
fn print(config: &Config, tree: &mut Node) -> Result<String, String> {
    let text = serde_saphyr::to_string(config).map_err(|error| error.to_string())?;
    let mut effective = Node::parse(&text).map_err(|problem| problem.what)?;
    if config.role == file::Role::Edge {
        // What has no place there is not in effect either.
        effective.retain(&Path::default(), |key| !["plugins", "sinks"].contains(&key));
        for name in config.streams.keys() {
            effective.retain(&Path::of(&["streams", name]), |key| key == "message");
        }
    }
    tree.visit_texts(&Path::default(), &mut |path, _, text| {
        if let (Some(written), Some(node)) = (&text.written, effective.get_mut(path)) {
            node.value = Value::Text(super::tree::Text { value: written.clone(), written: None });
        }
    });
    serde_saphyr::to_string(&effective).map_err(|error| error.to_string())
}
