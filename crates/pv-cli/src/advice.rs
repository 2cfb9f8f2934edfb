//! Advice on errors that the libraries cannot give, because it names switches and environment variables of the program.

use std::error::Error;
use std::iter::successors;
use std::path::{Path, PathBuf};

use pv_data::RunError;
#[cfg(feature = "http")]
use pv_judge::http::HttpError;
use pv_model::adapter::AdapterError;
use pv_model::chat::TemplateError;
use pv_model::device::DeviceError;
use pv_model::hub::HubError;

/// Advice on an error.
pub(crate) fn on(error: &(dyn Error + 'static)) -> Option<String> {
    successors(Some(error), |error| passed_on(*error)).find_map(|error| {
        if let Some(error) = error.downcast_ref() {
            return on_run(error);
        }
        if let Some(advice) = error.downcast_ref().and_then(on_model) {
            return Some(advice);
        }
        if let Some(error) = error.downcast_ref() {
            return on_device(error);
        }
        if let Some(error) = error.downcast_ref() {
            return on_template(error);
        }
        #[cfg(feature = "http")]
        if let Some(error) = error.downcast_ref() {
            return on_server(error);
        }
        if let Some(pv_train::Error::ScheduleDependsOnSteps { .. }) = error.downcast_ref() {
            return Some("--grow continues the run with the schedule of the longer one".to_owned());
        }
        match error.downcast_ref()? {
            HubError::NotBuilt { .. } => Some("build the program with `--features hub`, or give a folder".to_owned()),
            _ => None,
        }
    })
}

/// The error that another one passes on transparently, so that it does not appear among its sources.
fn passed_on<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_steer::Error::Run(error) => Some(error),
            pv_steer::Error::Vector(error) => Some(error),
            pv_steer::Error::Model(error) => Some(error),
            pv_steer::Error::Judge(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_screen::Error::Run(error) => Some(error),
            pv_screen::Error::Vectors(error) => Some(error),
            pv_screen::Error::Model(error) => Some(error),
            pv_screen::Error::Judge(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_train::Error::Run(error) => Some(error),
            pv_train::Error::Vectors(error) => Some(error.as_ref()),
            pv_train::Error::Steer(error) => Some(error.as_ref()),
            pv_train::Error::Model(error) => Some(error),
            pv_train::Error::Row { source, .. } => Some(source.as_ref()),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_train::measure::MeasureError::Run(error) => Some(error),
            pv_train::measure::MeasureError::Train(error) => Some(error.as_ref()),
            pv_train::measure::MeasureError::Vectors(error) => Some(error),
            pv_train::measure::MeasureError::Model(error) => Some(error),
            pv_train::measure::MeasureError::Judge(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_vectors::Error::Run(error) => Some(error),
            pv_vectors::Error::Model(error) => Some(error),
            pv_vectors::Error::Judge(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            #[cfg(feature = "http")]
            pv_judge::Error::Http(error) => Some(error),
            pv_judge::Error::Model(error) => Some(error),
            _ => None,
        };
    }
    match error.downcast_ref()? {
        pv_model::Error::Hub(error) => Some(error),
        pv_model::Error::Device(error) => Some(error),
        pv_model::Error::Template(error) => Some(error),
        _ => None,
    }
}

fn other_run(path: &Path) -> Option<String> {
    let free = free_beside(path)?;
    Some(format!("give this run its own folder, such as --out {free}, or use the earlier settings"))
}

/// The first of `NAME-2`, `NAME-3`, … that does not exist.
fn free(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_string_lossy().into_owned();
    (2..1000).map(|number| folder.with_file_name(format!("{name}-{number}"))).find(|folder| !folder.exists())
}

/// A folder name that does not exist yet, next to the given folder or the given file's folder.
fn free_beside(path: &Path) -> Option<String> {
    let folder = if path.is_file() { path.parent()? } else { path };
    Some(free(folder)?.display().to_string())
}

fn on_run(error: &RunError) -> Option<String> {
    match error {
        RunError::OtherRun { path, .. } => other_run(path),
        RunError::Locked { path } => {
            let free = free_beside(path)?;
            Some(format!("wait for it to end, or give this run its own folder, such as --out {free}"))
        }
        _ => None,
    }
}

fn on_model(error: &pv_model::Error) -> Option<String> {
    match error {
        pv_model::Error::NotEnoughMemory { smaller, .. } => {
            let fits = match smaller.first() {
                Some(weights) => format!("--weights {weights} fits, computed in f32"),
                None => "use a smaller model".to_owned(),
            };
            Some(format!("{fits}; --ignore-memory loads the model anyway"))
        }
        pv_model::Error::Adapter(AdapterError::Experts { .. }) => {
            Some("--targets q_proj,k_proj,v_proj,o_proj updates attention only".to_owned())
        }
        _ => None,
    }
}

fn on_device(error: &DeviceError) -> Option<String> {
    match error {
        DeviceError::NotBuilt { feature, .. } => Some(format!(
            "build the program with `--features {feature}`, as in: cargo run --release --features {feature} …"
        )),
        _ => None,
    }
}

fn on_template(error: &TemplateError) -> Option<String> {
    match error {
        TemplateError::NotFound { folder } if folder.is_file() => {
            Some("use the file of the model's chat (instruct) variant: base models have no chat template".to_owned())
        }
        TemplateError::NotFound { .. } => {
            Some("use the model's chat (instruct) variant, or put its chat_template.jinja into the folder".to_owned())
        }
        TemplateError::NeedsClock => Some("set the date, as in --now 2025-07-29".to_owned()),
        TemplateError::SystemRoleRefused { .. } => {
            Some("--system-in-user prepends the system prompt to the first user message".to_owned())
        }
        _ => None,
    }
}

#[cfg(feature = "http")]
fn on_server(error: &HttpError) -> Option<String> {
    match error {
        HttpError::Refused { status: 401 | 403, .. } => {
            Some("the key is read from OPENAI_API_KEY, and the server's address from OPENAI_BASE_URL".to_owned())
        }
        HttpError::Refused { status: 404, .. } => Some(
            "--judge-model must be the model's name on that server, and OPENAI_BASE_URL the address before /chat/completions"
                .to_owned(),
        ),
        HttpError::GaveUp { .. } => {
            Some("is the server running? Its address is read from OPENAI_BASE_URL, such as http://localhost:8080/v1".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_through_every_crates_errors() {
        let locked = || RunError::Locked { path: "runs/x".into() };
        let errors: [Box<dyn Error>; 4] = [
            Box::new(locked()),
            Box::new(pv_steer::Error::Vector(locked().into())),
            Box::new(pv_screen::Error::from(locked())),
            Box::new(pv_train::measure::MeasureError::from(pv_train::Error::from(locked()))),
        ];
        errors.iter().for_each(|error| assert!(on(error.as_ref()).expect("advice").contains("--out runs/x-2")));

        #[cfg(feature = "http")]
        {
            let refused = |status| {
                let http = HttpError::Refused { server: "s".into(), status, message: "m".into() };
                pv_steer::Error::Judge(pv_judge::Error::Http(http))
            };
            assert!(on(&refused(401)).expect("advice").contains("OPENAI_API_KEY"));
            assert_eq!(on(&refused(400)), None);
        }
        let experts = AdapterError::Experts { block: 0, target: pv_model::adapter::LoraTarget::Gate };
        let experts = pv_train::Error::Model(experts.into());
        assert!(on(&experts).expect("advice").contains("--targets q_proj"));
        let built = DeviceError::NotBuilt { name: "cuda:1".into(), feature: "cuda" };
        let built = pv_vectors::Error::Model(built.into());
        assert!(on(&built).expect("advice").contains("--features cuda"));
        assert_eq!(on(&std::fmt::Error), None);
    }
}
