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
/// this machine has no such device.
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
    let found = Device::enumerate(kind).len();
    let index = match index {
        None => 0,
        Some(text) => text.parse::<usize>().map_err(|_| Error::NoAdapter { name: name.to_owned(), found })?,
    };
    if index >= found {
        return Err(Error::NoAdapter { name: name.to_owned(), found });
    }
    Ok(make(DeviceIndex::Specified(index)))
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "webgpu"))]
fn adapter(
    name: &str,
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    make: impl Fn(burn::tensor::DeviceKind) -> Device,
) -> Result<Device> {
    use burn::tensor::DeviceKind;
    let found = Device::enumerate(kind).len();
    let none = || Error::NoAdapter { name: name.to_owned(), found };
    if found == 0 {
        return Err(none());
    }
    Ok(make(match index {
        None => DeviceKind::DefaultDevice,
        Some("cpu") => DeviceKind::Cpu,
        Some(text) => DeviceKind::DiscreteGpu(text.parse().map_err(|_| none())?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_or_refused_by_name() {
        assert_eq!(device("flex").expect("the CPU is always there"), device("cpu").expect("an alias"));
        assert!(matches!(device("tpu"), Err(Error::UnknownDevice { name, .. }) if name == "tpu"));
        assert!(matches!(device("flex:1"), Err(Error::UnknownDevice { .. })));
        #[cfg(not(feature = "metal"))]
        assert!(matches!(device("metal"), Err(Error::BackendNotBuilt { feature: "metal", .. })));
    }
}
