//! What a program's user can do about an error, where the libraries cannot know it: which switch, which variable.

use std::error::Error;
use std::iter::successors;
use std::path::Path;

use pv_data::RunError;
#[cfg(feature = "http")]
use pv_judge::HttpError;
use pv_model::HubError;

use crate::folder::free;

/// What may be done about an error.
pub(crate) fn on(error: &(dyn Error + 'static)) -> Option<String> {
    successors(Some(error), |error| passed_on(*error)).find_map(|error| {
        if let Some(error) = error.downcast_ref() {
            return on_run(error);
        }
        if let Some(error) = error.downcast_ref() {
            return on_model(error);
        }
        #[cfg(feature = "http")]
        if let Some(error) = error.downcast_ref() {
            return on_server(error);
        }
        match error.downcast_ref()? {
            HubError::NotBuilt { .. } => Some("build the program with `--features hub`, or give a folder".to_owned()),
            _ => None,
        }
    })
}

/// The error that another one passes on as its own, which its sources do not show.
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
            pv_train::Error::Measure(error) => Some(error.as_ref()),
            pv_train::Error::Vectors(error) => Some(error.as_ref()),
            pv_train::Error::Steer(error) => Some(error.as_ref()),
            pv_train::Error::Model(error) => Some(error),
            pv_train::Error::Row { source, .. } => Some(source.as_ref()),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            pv_train::MeasureError::Run(error) => Some(error),
            pv_train::MeasureError::Train(error) => Some(error.as_ref()),
            pv_train::MeasureError::Vectors(error) => Some(error),
            pv_train::MeasureError::Model(error) => Some(error),
            pv_train::MeasureError::Judge(error) => Some(error),
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
        _ => None,
    }
}

fn other_run(path: &Path) -> Option<String> {
    let free = free_beside(path)?;
    Some(format!("give this run a folder of its own, such as --out {free}, or repeat the former settings"))
}

/// A folder that does not exist, beside the one that a folder or a file in it is.
fn free_beside(path: &Path) -> Option<String> {
    let folder = if path.is_file() { path.parent()? } else { path };
    Some(free(folder)?.display().to_string())
}

fn on_run(error: &RunError) -> Option<String> {
    match error {
        RunError::OtherRun { path, .. } => other_run(path),
        RunError::Locked { path } => {
            let free = free_beside(path)?;
            Some(format!("wait for it to end, or give this run a folder of its own, such as --out {free}"))
        }
        _ => None,
    }
}

fn on_model(error: &pv_model::Error) -> Option<String> {
    match error {
        pv_model::Error::BackendNotBuilt { feature, .. } => Some(format!(
            "build the program with `--features {feature}`, as in: cargo run --release --features {feature} …"
        )),
        pv_model::Error::NoChatTemplate { .. } => {
            Some("take the model's chat (instruct) variant, or put its chat_template.jinja into the folder".to_owned())
        }
        pv_model::Error::NotEnoughMemory { .. } => {
            Some("--dtype bf16 takes half of f32's memory; --ignore-memory loads the model all the same".to_owned())
        }
        pv_model::Error::TemplateNeedsClock => Some("--now 2025-07-29 gives it one".to_owned()),
        pv_model::Error::SystemRoleRefused { .. } => Some("--system-in-user does so".to_owned()),
        _ => None,
    }
}

#[cfg(feature = "http")]
fn on_server(error: &HttpError) -> Option<String> {
    match error {
        HttpError::Refused { status: 401 | 403, .. } => {
            Some("the key is taken from OPENAI_API_KEY, and the server's address from OPENAI_BASE_URL".to_owned())
        }
        HttpError::Refused { status: 404, .. } => Some(
            "--judge-model is the model's name there, and OPENAI_BASE_URL the address that /chat/completions is put behind"
                .to_owned(),
        ),
        HttpError::GaveUp { .. } => {
            Some("is the server running? Its address is taken from OPENAI_BASE_URL, as http://localhost:8080/v1".to_owned())
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
            Box::new(pv_train::Error::from(pv_train::MeasureError::from(locked()))),
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
        let built =
            pv_vectors::Error::Model(pv_model::Error::BackendNotBuilt { name: "cuda:1".into(), feature: "cuda" });
        assert!(on(&built).expect("advice").contains("--features cuda"));
        assert_eq!(on(&std::fmt::Error), None);
    }
}
