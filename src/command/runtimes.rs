//! `waterwheel runtimes`

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use image::{Recipe, RuntimeCatalog};

use crate::{
    cli::{Global, RuntimesDir},
    config::Config,
    data_dir::DataDir,
};

/// List and build runtimes: the root file systems that functions run in
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waterwheel runtimes list
  waterwheel runtimes build                 every runtime this version knows
  waterwheel runtimes build python3.11")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    dir: RuntimesDir,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show which runtimes are installed and which can be built
    List,
    /// Build runtimes from packages; what is up to date already is left alone
    Build {
        /// Runtimes as the API names them [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut layers = global.layers()?;
    arguments.dir.add_to(&mut layers);
    let config = Config::read(&layers)?;
    let catalog = RuntimeCatalog::open(&DataDir::at(&global.data_dir).runtimes(&config));
    match &arguments.action {
        Action::List => print!("{}", list(&catalog)),
        Action::Build { names } => build(&catalog, names)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(catalog: &RuntimeCatalog) -> String {
    let mut text =
        format!("{:<18} {:<12} {:>8}  in {}\n", "RUNTIME", "STATE", "SIZE", catalog.dir().display());
    for recipe in catalog.known() {
        let line = match catalog.get(&recipe.name) {
            None => format!("{:<18} {:<12}", recipe.name, "not built"),
            Some(runtime) => {
                let state = if runtime.current { "installed" } else { "outdated" };
                format!("{:<18} {state:<12} {:>5} MB", recipe.name, runtime.bytes / 1_000_000)
            }
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // Somebody's own, or of another version of this program: they work, but are not rebuilt from here.
    let is_known = |name: &str| catalog.known().iter().any(|recipe| recipe.name == name);
    for runtime in catalog.list().iter().filter(|runtime| !is_known(&runtime.name)) {
        text.push_str(&format!(
            "{:<18} {:<12} {:>5} MB\n",
            runtime.name,
            "foreign",
            runtime.bytes / 1_000_000
        ));
    }
    text
}

fn build(catalog: &RuntimeCatalog, names: &[String]) -> anyhow::Result<()> {
    for recipe in select(catalog.known(), names)? {
        image::build(recipe, catalog.dir(), &mut |progress| println!("{progress}"))
            .with_context(|| format!("cannot build runtime {}", recipe.name))?;
    }
    Ok(())
}

/// The recipes called `names`; all of them where no name is given. Nothing is built if one name is unknown.
fn select<'a>(known: &'a [Recipe], names: &[String]) -> anyhow::Result<Vec<&'a Recipe>> {
    if names.is_empty() {
        return Ok(known.iter().collect());
    }
    let find = |name: &String| match known.iter().find(|recipe| recipe.name == *name) {
        Some(recipe) => Ok(recipe),
        None => {
            let all: Vec<_> = known.iter().map(|recipe| recipe.name.as_str()).collect();
            bail!("no runtime is called {name:?}; this version builds: {}", all.join(", "))
        }
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_is_listed_too() {
        let dir = tempfile::tempdir().unwrap();
        let text = list(&RuntimeCatalog::open(dir.path()));
        assert!(text.contains("python3.11         not built\n"), "{text}");
        assert!(text.contains("provided.al2023    not built\n"), "{text}");
    }

    #[test]
    fn an_unknown_name_is_refused_and_the_known_ones_listed() {
        let names = ["python3.11".to_owned(), "cobol".to_owned()];
        let error = select(Recipe::known(), &names).unwrap_err().to_string();
        assert!(error.starts_with("no runtime is called \"cobol\"; this version builds: "), "{error}");
        assert!(error.contains("provided.al2023"));
        assert_eq!(select(Recipe::known(), &[]).unwrap().len(), Recipe::known().len());
    }
}
