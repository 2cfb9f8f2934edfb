//! The one place that knows which backends were built in.

use burn::tensor::{DType, Device};

use crate::{Error, Result};

/// The backends that a device name may ask for, and the feature of this crate that builds each in.
const BACKENDS: [(&str, &str); 7] = [
    ("flex", ""),
    ("wgpu", "wgpu"),
    ("vulkan", "vulkan"),
    ("metal", "metal"),
    ("webgpu", "webgpu"),
    ("cuda", "cuda"),
    ("rocm", "rocm"),
];

/// A device by name: `flex` (the CPU, always there; `cpu` is the same), `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda` or
/// `rocm`.
///
/// `cuda:1` and `rocm:1` name a GPU by its index; `wgpu:0` and its kin the first discrete GPU, `wgpu:cpu` a software
/// adapter. Without an index the backend chooses.
///
/// # Errors
/// [`Error::UnknownDevice`]; [`Error::BackendNotBuilt`] when the backend's feature is off; [`Error::NoAdapter`] when
/// this machine has no such device; [`Error::Device`] when it is there and cannot be opened.
pub fn device(name: &str) -> Result<Device> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => (backend, Some(index)),
        None => (name, None),
    };
    let backend = if backend == "cpu" { "flex" } else { backend };
    let unknown = || {
        let known = BACKENDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        Error::UnknownDevice { name: name.to_owned(), known }
    };
    let Some((backend, feature)) = BACKENDS.into_iter().find(|(known, _)| *known == backend) else {
        return Err(unknown());
    };
    match (backend, index) {
        ("flex", None) => Ok(Device::flex()),
        ("flex", Some(_)) => Err(unknown()),
        #[cfg(feature = "cuda")]
        ("cuda", _) => indexed(name, index, burn::tensor::DeviceType::Cuda, Device::cuda),
        #[cfg(feature = "rocm")]
        ("rocm", _) => indexed(name, index, burn::tensor::DeviceType::Rocm, Device::rocm),
        #[cfg(feature = "wgpu")]
        ("wgpu", _) => adapter(name, index, burn::tensor::DeviceType::Wgpu, Device::wgpu),
        #[cfg(feature = "vulkan")]
        ("vulkan", _) => adapter(name, index, burn::tensor::DeviceType::Vulkan, Device::vulkan),
        #[cfg(feature = "metal")]
        ("metal", _) => adapter(name, index, burn::tensor::DeviceType::Metal, Device::metal),
        #[cfg(feature = "webgpu")]
        ("webgpu", _) => adapter(name, index, burn::tensor::DeviceType::WebGpu, Device::webgpu),
        _ => Err(Error::BackendNotBuilt { name: name.to_owned(), feature }),
    }
}

/// The type in which a model computes on a device unless told otherwise: f32 on the CPU and through WGPU, bf16 on GPUs
/// that have it.
pub fn default_dtype(device: &Device) -> DType {
    let name = format!("{device:?}").to_lowercase();
    let datacentre = name.contains("cuda") || name.contains("rocm") || name.contains("hip");
    if datacentre && device.supports_dtype(DType::BF16) { DType::BF16 } else { DType::F32 }
}

/// A compute type by name: `f32`, `f16` or `bf16`.
///
/// # Errors
/// [`Error::BadOption`] for any other name.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" | "float32" => Ok(DType::F32),
        "f16" | "float16" => Ok(DType::F16),
        "bf16" | "bfloat16" => Ok(DType::BF16),
        _ => Err(Error::BadOption { reason: format!("there is no compute type {name:?}; choose f32, f16 or bf16") }),
    }
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn indexed(
    name: &str,
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    make: impl Fn(burn::tensor::DeviceIndex) -> Device,
) -> Result<Device> {
    use burn::tensor::DeviceIndex;
    let found = caught(name, || Device::enumerate(kind).len())?;
    let none = || Error::NoAdapter { name: name.to_owned(), found };
    let index = index.map_or(Ok(0), |text| text.parse::<usize>().map_err(|_| none()))?;
    if index >= found {
        return Err(none());
    }
    opened(name, || make(DeviceIndex::Specified(index)))
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "webgpu"))]
fn adapter(
    name: &str,
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    make: impl Fn(burn::tensor::DeviceKind) -> Device,
) -> Result<Device> {
    use burn::tensor::DeviceKind;
    let found = caught(name, || Device::enumerate(kind).len())?;
    let none = || Error::NoAdapter { name: name.to_owned(), found };
    let number = match index {
        None | Some("cpu") => 0,
        Some(text) => text.parse().map_err(|_| none())?,
    };
    if number >= found {
        return Err(none());
    }
    opened(name, || {
        make(match index {
            None => DeviceKind::DefaultDevice,
            Some("cpu") => DeviceKind::Cpu,
            Some(_) => DeviceKind::DiscreteGpu(number),
        })
    })
}

/// A device that has computed something. Burn opens a device when it is first used, and panics where there is none.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "wgpu"))]
fn opened(name: &str, make: impl FnOnce() -> Device) -> Result<Device> {
    caught(name, || {
        let device = make();
        let one = burn::tensor::Tensor::<1>::ones([1], (&device, DType::F32));
        (one + 1.0).try_into_data().map(|_| device)
    })?
    .map_err(|error| Error::Device { reason: format!("{name}: {error:?}") })
}

/// Does something with a backend, which panics without a driver or a device.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "wgpu"))]
fn caught<T>(name: &str, work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Error::Device { reason: format!("{name} cannot be opened: {}", said.unwrap_or("its backend gave up")) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_or_refused_by_name() {
        assert_eq!(device("flex").expect("the CPU is always there"), device("cpu").expect("an alias"));
        assert!(matches!(device("tpu"), Err(Error::UnknownDevice { name, .. }) if name == "tpu"));
        assert!(matches!(device("flex:1"), Err(Error::UnknownDevice { .. })));
        for name in ["wgpu:7", "vulkan:3", "cuda:99", "webgpu:x", "rocm:-1", "cuda:"] {
            let error = device(name).expect_err("no such device here");
            let expected =
                matches!(error, Error::BackendNotBuilt { .. } | Error::NoAdapter { .. } | Error::Device { .. });
            assert!(expected && error.to_string().contains(name.split(':').next().expect("a name")), "{error}");
        }
        #[cfg(not(feature = "metal"))]
        assert!(matches!(device("metal"), Err(Error::BackendNotBuilt { feature: "metal", .. })));
    }
    #[test]
    fn a_backend_that_gives_up_is_an_error() {
        let error = opened("wgpu:7", || panic!("Unable to acquire wgpu device")).expect_err("it gives up");
        assert!(matches!(&error, Error::Device { reason } if reason.contains("Unable to acquire")), "{error}");
        assert!(opened("flex", Device::flex).is_ok());
    }
}
