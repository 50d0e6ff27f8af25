//! The CustomResourceDefinition, as `kv-controller crd` prints it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use kvcluster_api::resource::KvCluster;
use serde_json::json;

/// The derived definition, with each paragraph of a description on one line, because `kubectl explain` wraps lines
/// itself.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut crd = KvCluster::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            unwrap_lines(schema);
            begin_unseen(schema);
        }
    }
    crd
}

/// Gives a KvCluster that the operator has not seen a status that says so. An object without one counts as complete: kstatus and
/// others cannot know that an operator will write it.
fn begin_unseen(schema: &mut JSONSchemaProps) {
    if let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
        status.default = Some(JSON(json!({"observedGeneration": -1})));
    }
}

fn unwrap_lines(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        let paragraphs: Vec<String> = description.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
        *description = paragraphs.join("\n\n");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| unwrap_lines(property));
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        unwrap_lines(item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        unwrap_lines(value);
    }
}
