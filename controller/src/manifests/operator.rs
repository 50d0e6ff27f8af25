//! The operator's own objects: identity, rights, Deployment of two replicas, Service, disruption budget.

use serde_json::{Value, json};

use crate::build::MANAGER;
use crate::manifests::ManifestSettings;

/// The port of health and metrics.
const PORT: u16 = 8080;

/// An object, and when it is part of an installation.
pub struct Document {
    /// Always, or only `plain` (not in the chart), with `watchNamespace`, for `allNamespaces`, or with `serviceAccount`.
    pub only_if: Option<&'static str>,
    /// The object.
    pub object: Value,
}

/// The values that differ between installations. In the chart they are expressions.
pub struct Values {
    name: String,
    instance: String,
    namespace: String,
    watch_namespace: String,
    image: String,
    image_pull_policy: String,
    image_pull_secrets: Option<Value>,
    replicas: Value,
    cluster_domain: String,
    log_level: String,
    rollouts_max: String,
    concurrency: String,
    poll_interval_ms: String,
    service_account: String,
    service_account_annotations: Option<Value>,
    pod_labels: Option<Value>,
    pod_annotations: Option<Value>,
    extra_env: Option<Value>,
    affinity: Option<Value>,
    priority_class: Option<Value>,
    fixed_user: String,
    user: Value,
    resources: Value,
    node_selector: Option<Value>,
    tolerations: Option<Value>,
    managed_by: Option<String>,
}

fn expression(text: &str) -> String {
    format!("@@ {text} @@")
}

impl Values {
    /// The values of an installation by `kubectl apply`.
    #[must_use]
    pub fn plain(settings: &ManifestSettings) -> Self {
        Self {
            name: MANAGER.to_owned(),
            instance: MANAGER.to_owned(),
            namespace: settings.namespace.clone(),
            watch_namespace: settings.watch_namespace.clone().unwrap_or_default(),
            image: settings.image.clone(),
            image_pull_policy: settings.image_pull_policy.clone(),
            image_pull_secrets: None,
            replicas: json!(2),
            cluster_domain: String::new(),
            log_level: "info".to_owned(),
            rollouts_max: "10".to_owned(),
            concurrency: "16".to_owned(),
            poll_interval_ms: "3000".to_owned(),
            service_account: MANAGER.to_owned(),
            service_account_annotations: None,
            pod_labels: None,
            pod_annotations: None,
            extra_env: None,
            affinity: None,
            priority_class: None,
            fixed_user: "true".to_owned(),
            user: json!(65532),
            resources: json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}),
            node_selector: None,
            tolerations: None,
            managed_by: None,
        }
    }

    /// The expressions of the chart.
    #[must_use]
    pub fn chart() -> Self {
        Self {
            name: expression("include `kvcluster.fullname` ."),
            instance: expression(".Release.Name"),
            namespace: expression(".Release.Namespace"),
            watch_namespace: expression(".Values.watchNamespace | quote"),
            image: expression("include `kvcluster.image` . | quote"),
            image_pull_policy: expression(".Values.image.pullPolicy | quote"),
            image_pull_secrets: Some(json!(expression("toYaml .Values.imagePullSecrets | nindent 8"))),
            replicas: json!(expression(".Values.replicas")),
            cluster_domain: expression(".Values.clusterDomain | quote"),
            log_level: expression(".Values.logLevel | quote"),
            rollouts_max: expression(".Values.rolloutsMax | quote"),
            concurrency: expression(".Values.concurrency | quote"),
            poll_interval_ms: expression(".Values.pollIntervalMs | quote"),
            service_account: expression("include `kvcluster.serviceAccountName` ."),
            service_account_annotations: Some(json!(expression(
                "toYaml .Values.serviceAccount.annotations | nindent 4"
            ))),
            pod_labels: Some(json!(expression("toYaml (include `kvcluster.podLabels` . | fromYaml) | nindent 8"))),
            pod_annotations: Some(json!(expression("toYaml .Values.podAnnotations | nindent 8"))),
            extra_env: Some(json!(expression("with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end"))),
            affinity: Some(json!(expression("toYaml .Values.affinity | nindent 8"))),
            priority_class: Some(json!(expression(".Values.priorityClassName | quote"))),
            fixed_user: expression(".Values.fixedUser | quote"),
            // Null is as good as absent.
            user: json!(expression("ternary 65532 `null` .Values.fixedUser")),
            resources: json!(expression("toYaml .Values.resources | nindent 10")),
            node_selector: Some(json!(expression("toYaml .Values.nodeSelector | nindent 8"))),
            tolerations: Some(json!(expression("toYaml .Values.tolerations | nindent 8"))),
            managed_by: Some(expression(".Release.Service")),
        }
    }

    fn labels(&self) -> Value {
        let mut labels = self.selector();
        if let Some(managed_by) = &self.managed_by {
            labels["app.kubernetes.io/managed-by"] = json!(managed_by);
        }
        labels
    }

    fn selector(&self) -> Value {
        json!({"app.kubernetes.io/name": MANAGER, "app.kubernetes.io/instance": self.instance})
    }
}

/// Every object of an installation, in the order of their use.
#[must_use]
pub fn documents(values: &Values) -> Vec<Document> {
    let all = |only_if, object| Document { only_if, object };
    let (name, namespace, labels) = (&values.name, &values.namespace, values.labels());
    let here = json!({"name": name, "namespace": namespace, "labels": labels});
    let everywhere = json!({"name": name, "labels": labels});
    let watched = json!({"name": name, "namespace": values.watch_namespace, "labels": labels});
    let account = &values.service_account;
    let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": namespace}]);
    let mut identity = json!({"name": account, "namespace": namespace, "labels": labels});
    if let Some(annotations) = &values.service_account_annotations {
        identity["annotations"] = annotations.clone();
    }
    let bind = |kind: &str, metadata: &Value, role: &str, role_name: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": role_name}, "subjects": subjects})
    };
    let role = |kind: &str, metadata: &Value, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules});
    vec![
        all(
            Some("plain"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted"}}}),
        ),
        all(Some("serviceAccount"), json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": identity})),
        all(Some("allNamespaces"), role("ClusterRole", &everywhere, rules())),
        all(Some("allNamespaces"), bind("ClusterRoleBinding", &everywhere, "ClusterRole", name)),
        all(Some("watchNamespace"), role("Role", &watched, rules())),
        all(Some("watchNamespace"), bind("RoleBinding", &watched, "Role", name)),
        all(None, role("Role", &lease_metadata(values), lease_rules(name))),
        all(None, bind("RoleBinding", &lease_metadata(values), "Role", &lease_role_name(values))),
        all(
            Some("allNamespaces"),
            user_role(values, "edit", &["admin", "edit"], &["create", "delete", "deletecollection", "patch", "update"]),
        ),
        all(Some("allNamespaces"), user_role(values, "view", &["admin", "edit", "view"], &["get", "list", "watch"])),
        all(None, deployment(values)),
        all(
            None,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": here, "spec": {
            "selector": values.selector(),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}}),
        ),
        // One replica at a time. A minimum of 1 would block every drain of the only replica.
        all(
            None,
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": here, "spec": {
            "maxUnavailable": 1, "selector": {"matchLabels": values.selector()}}}),
        ),
    ]
}

/// The rights that reconciling needs. The operator deletes a NetworkPolicy, a PodDisruptionBudget and a CronJob that the spec
/// switches off and a Job that is done, replaces a StatefulSet whose volumes grow, and the pods of followers during a rollout.
/// It reads Secrets by name and never lists them.
fn rules() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    const KEEP: [&str; 5] = ["get", "list", "watch", "create", "patch"];
    const KEEP_OR_DELETE: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
    json!([
        rule("kvcluster.io", &["kvclusters"], &["get", "list", "watch"]),
        rule("kvcluster.io", &["kvclusters/status"], &["patch"]),
        rule("apps", &["deployments"], &KEEP),
        rule("apps", &["statefulsets"], &KEEP_OR_DELETE),
        rule("", &["configmaps", "serviceaccounts", "services"], &KEEP),
        rule("", &["secrets"], &["get", "create", "patch"]),
        rule("", &["pods"], &["list", "watch", "patch", "delete"]),
        rule("", &["pods/eviction"], &["create"]),
        rule("", &["persistentvolumeclaims"], &["list", "watch", "patch"]),
        rule("batch", &["cronjobs", "jobs"], &KEEP_OR_DELETE),
        rule("policy", &["poddisruptionbudgets"], &KEEP_OR_DELETE),
        rule("networking.k8s.io", &["networkpolicies"], &KEEP_OR_DELETE),
        rule("events.k8s.io", &["events"], &["create"]),
    ])
}

/// The rights for the Lease of this name.
fn lease_rules(name: &str) -> Value {
    json!([
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [name], "verbs": ["get", "update"]},
    ])
}

fn lease_role_name(values: &Values) -> String {
    suffixed(&values.name, "lease")
}

fn lease_metadata(values: &Values) -> Value {
    json!({"name": lease_role_name(values), "namespace": values.namespace, "labels": values.labels()})
}

/// Users who may edit or view a namespace may edit or view its KvClusters.
fn user_role(values: &Values, name: &str, into: &[&str], verbs: &[&str]) -> Value {
    let mut labels = values.labels();
    for role in into {
        labels[format!("rbac.authorization.k8s.io/aggregate-to-{role}")] = json!("true");
    }
    let mut resources = vec!["kvclusters"];
    if name == "edit" {
        resources.push("kvclusters/scale");
    } else {
        resources.extend(["kvclusters/scale", "kvclusters/status"]);
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": suffixed(&values.name, name), "labels": labels},
        "rules": [{"apiGroups": ["kvcluster.io"], "resources": resources, "verbs": verbs}]})
}

/// A name with a suffix. In the chart the name is an expression, which then includes the suffix.
fn suffixed(name: &str, suffix: &str) -> String {
    match name.strip_suffix(" @@") {
        Some(expression) => format!("{expression} | printf `%s-{suffix}` @@"),
        None => format!("{name}-{suffix}"),
    }
}

fn deployment(values: &Values) -> Value {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |period_s: u32, failures: u32| json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": period_s, "failureThreshold": failures, "timeoutSeconds": 2});
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": values.selector()}}]);
    let mut pod = json!({
        "serviceAccountName": values.service_account,
        "securityContext": {"runAsNonRoot": true, "runAsUser": values.user, "runAsGroup": values.user, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": spread,
        "containers": [{
            "name": MANAGER,
            "image": values.image,
            "imagePullPolicy": values.image_pull_policy,
            "command": [MANAGER, "run"],
            "env": [
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                field("POD_IP", "status.podIP"),
                // Named after the installation: two of them in one namespace never share a Lease.
                variable("LEASE_NAME", &values.name),
                variable("NODE_IMAGE", &values.image),
                variable("NODE_IMAGE_PULL_POLICY", &values.image_pull_policy),
                variable("WATCH_NAMESPACE", &values.watch_namespace),
                variable("CLUSTER_DOMAIN", &values.cluster_domain),
                variable("LOG_LEVEL", &values.log_level),
                variable("ROLLOUTS_MAX", &values.rollouts_max),
                variable("CONCURRENCY", &values.concurrency),
                variable("POLL_INTERVAL_MS", &values.poll_interval_ms),
                variable("FIXED_USER", &values.fixed_user),
            ],
            "ports": [{"name": "http", "containerPort": PORT}],
            "readinessProbe": probe(5, 2),
            "livenessProbe": probe(10, 3),
            "resources": values.resources,
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        }],
    });
    let optional = [
        ("imagePullSecrets", &values.image_pull_secrets),
        ("nodeSelector", &values.node_selector),
        ("tolerations", &values.tolerations),
        ("affinity", &values.affinity),
        ("priorityClassName", &values.priority_class),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            pod[field] = value.clone();
        }
    }
    // An expression of the chart that stands for any number of variables.
    if let (Some(extra), Some(env)) = (&values.extra_env, pod["containers"][0]["env"].as_array_mut()) {
        env.push(extra.clone());
    }
    let mut metadata = json!({"labels": values.pod_labels.clone().unwrap_or_else(|| values.labels())});
    if let Some(annotations) = &values.pod_annotations {
        metadata["annotations"] = annotations.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
    "metadata": {"name": values.name, "namespace": values.namespace, "labels": values.labels()},
    "spec": {
        "replicas": values.replicas,
        "selector": {"matchLabels": values.selector()},
        "template": {"metadata": metadata, "spec": pod},
    }})
}
