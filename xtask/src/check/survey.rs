//! Which kind of file it is, what configurations it holds, and what they are judged against.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::envoy::{self, Cluster, Vm};
use super::finding::{Finding, Place, Sources};
use super::kubernetes::{self, Around};
use super::plugin::{Budget, Plugin, is_configuration};
use super::tree::{self, Node};

/// A file that has been judged, with what it refers to.
pub(crate) struct Survey {
    pub(crate) sources: Sources,
    pub(crate) plugins: Vec<Plugin>,
    /// In the order of the files and of their lines.
    pub(crate) findings: Vec<Finding>,
    folder: PathBuf,
    documents: Vec<Node>,
    /// Bootstraps that stand in a text of a document.
    inner: Vec<Node>,
    filters: Vec<Filter>,
}

/// A filter of ours in Envoy's own form.
struct Filter {
    /// Its connection manager and its entry there, unless a patch adds it.
    place: Option<(Node, Node)>,
    /// The `PluginConfig`.
    config: Node,
    plugin: usize,
}

/// Judges a file.
///
/// # Errors
/// It can't be read, is neither YAML nor JSON, or holds no configuration of the filter.
pub(crate) fn survey(file: &Path) -> Result<Survey> {
    let bytes = fs::read(file).with_context(|| format!("{}", file.display()))?;
    let text = String::from_utf8(bytes);
    let text = text.with_context(|| format!("{}: neither YAML nor JSON", file.display()))?;
    of_text(file, text)
}

/// Judges what stands in a file.
///
/// # Errors
/// It is neither YAML nor JSON, or holds no configuration of the filter.
pub(super) fn of_text(file: &Path, text: String) -> Result<Survey> {
    let mut survey = Survey {
        sources: Sources::new(),
        plugins: Vec::new(),
        findings: Vec::new(),
        folder: file.parent().map(Path::to_owned).unwrap_or_default(),
        documents: Vec::new(),
        inner: Vec::new(),
        filters: Vec::new(),
    };
    let number = survey.read(file, text)?;
    survey.collect(number);
    if survey.plugins.is_empty() {
        bail!(
            "{}: no configuration of quota-gate in it (looked for a plugin configuration, a wasm \
             filter of Envoy, a WasmPlugin, an EnvoyExtensionPolicy)",
            file.display()
        );
    }
    survey.judge();
    survey
        .findings
        .sort_by_key(|found| (found.place.file, found.place.span.start));
    Ok(survey)
}

impl Survey {
    /// Reads a file's documents; the file's number.
    fn read(&mut self, path: &Path, text: String) -> Result<usize> {
        let number = self.sources.add(path, text);
        match tree::read(number, self.sources.text(number)) {
            Ok(documents) => {
                self.documents.extend(documents);
                Ok(number)
            }
            Err(unreadable) => {
                let at = unreadable.at;
                let place = Place {
                    file: number,
                    span: at..at,
                };
                let (line, column) = self.sources.line(&place);
                bail!(
                    "{}:{line}:{column}: neither YAML nor JSON: {}",
                    path.display(),
                    unreadable.error
                )
            }
        }
    }

    /// Finds the configurations of a file.
    fn collect(&mut self, file: usize) {
        let documents: Vec<Node> = self.documents.clone();
        for document in documents.iter().filter(|own| own.file == file) {
            match kubernetes::kind(document) {
                Some("WasmPlugin") => self.wasm_plugin(document),
                Some("EnvoyExtensionPolicy") => self.extension_policy(document),
                Some("EnvoyProxy") => {
                    let value = document.at(&["spec", "bootstrap", "value"]);
                    let text = self.sources.text(file);
                    self.inner.extend(value.and_then(|value| value.inner(text)));
                }
                Some(_) => self.envoy(document),
                None if is_configuration(document) => self.bare(document),
                None => self.envoy(document),
            }
        }
    }

    /// A file that is a plugin configuration, and nothing else.
    fn bare(&mut self, document: &Node) {
        let text = self.sources.text(document.file);
        let is_json = text.trim_start().starts_with('{');
        let findings = &mut self.findings;
        let plugin = if is_json {
            Plugin::from_file(&mut self.sources, document.clone(), BARE, findings)
        } else {
            Plugin::from_tree(&mut self.sources, document.clone(), BARE, findings)
        };
        self.plugins.push(plugin);
    }

    fn wasm_plugin(&mut self, document: &Node) {
        let Some(spec) = document.get("spec") else {
            return;
        };
        let own = spec.get("pluginConfig");
        let name = document.at(&["metadata", "name"]).and_then(Node::text);
        let texts = [name, spec.text_of("url"), spec.text_of("pluginName")];
        if !own.is_some_and(is_configuration) && !texts.into_iter().flatten().any(is_our_name) {
            return;
        }
        let tree = own.unwrap_or(spec).clone();
        let findings = &mut self.findings;
        let plugin = match own {
            Some(_) => Plugin::from_tree(&mut self.sources, tree, "WasmPlugin", findings),
            None => Plugin::judge(&mut self.sources, tree, b"", "WasmPlugin", findings),
        };
        self.plugins.push(plugin);
    }

    fn extension_policy(&mut self, document: &Node) {
        let list = document.at(&["spec", "wasm"]);
        for wasm in list.map_or(&[][..], Node::items) {
            let own = wasm.get("config");
            let name = wasm.text_of("name").is_some_and(is_our_name);
            if !own.is_some_and(is_configuration) && !name {
                continue;
            }
            let tree = own.unwrap_or(wasm).clone();
            let holder = "EnvoyExtensionPolicy";
            let findings = &mut self.findings;
            let plugin = match own {
                Some(_) => Plugin::from_tree(&mut self.sources, tree, holder, findings),
                None => Plugin::judge(&mut self.sources, tree, b"", holder, findings),
            };
            self.plugins.push(plugin);
        }
    }

    /// Finds the filters of a tree in Envoy's own form, and reads what they take by ECDS.
    fn envoy(&mut self, document: &Node) {
        let mut known = Vec::new();
        for manager in envoy::managers(document) {
            for filter in manager.get("http_filters").map_or(&[][..], Node::items) {
                let place = Some((manager.clone(), filter.clone()));
                if let Some(typed) = filter.get("typed_config") {
                    known.push(typed.span.clone());
                    self.filter(typed, place.clone());
                }
                if let Some(discovery) = filter.get("config_discovery") {
                    self.discovered(filter, discovery, place);
                }
            }
        }
        // What patches add, and what an ECDS file holds.
        let mut rest = Vec::new();
        envoy::find(document, &is_wasm, &mut rest);
        for typed in rest {
            if !known.contains(&typed.span) {
                self.filter(typed, None);
            }
        }
    }

    fn filter(&mut self, typed: &Node, place: Option<(Node, Node)>) {
        let Some(config) = typed.get("config").filter(|_| is_wasm(typed)) else {
            return;
        };
        let own = config.get("configuration");
        let holder = place.as_ref().map_or("wasm filter", |_| "Envoy bootstrap");
        let filter = place
            .as_ref()
            .and_then(|(_, filter)| filter.text_of("name"));
        let texts = [
            filter,
            config.text_of("name"),
            config.text_of("root_id"),
            config.at(&["vm_config", "vm_id"]).and_then(Node::text),
        ];
        let ours = texts.into_iter().flatten().any(is_our_name);
        let value = own.and_then(|own| own.get("value"));
        let is_struct = own.is_some_and(|own| own.is_type(".Struct"));
        let findings = &mut self.findings;
        let sources = &mut self.sources;
        let plugin = match value {
            Some(value) if is_struct && (ours || is_configuration(value)) => {
                Plugin::from_tree(sources, value.clone(), holder, findings)
            }
            Some(value) if ours || value.text().is_some_and(mentions_us) => {
                Plugin::from_text(sources, value, holder, findings)
            }
            None if ours => Plugin::judge(sources, config.clone(), b"", holder, findings),
            Some(_) | None => return,
        };
        self.plugins.push(plugin);
        self.filters.push(Filter {
            place,
            config: config.clone(),
            plugin: self.plugins.len() - 1,
        });
    }

    /// A filter whose configuration is in a file of its own: where the bootstrap says, or next to
    /// it under the same name.
    fn discovered(&mut self, filter: &Node, discovery: &Node, place: Option<(Node, Node)>) {
        if let Some(default) = discovery.get("default_config") {
            self.filter(default, place.clone());
        }
        let path = ["config_source", "path_config_source", "path"];
        let Some(node) = discovery.at(&path) else {
            return;
        };
        let named = PathBuf::from(node.text().unwrap_or_default());
        let near = named.file_name().map(|name| self.folder.join(name));
        let files = [Some(named.clone()), near];
        let read = files.into_iter().flatten().find_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            Some((path, text))
        });
        let unread = |error: String| (error, "put the file there, or next to the bootstrap");
        let failed = match read {
            None => Some(unread(format!("{} can't be read", named.display()))),
            Some((path, text)) => match self.read(&path, text) {
                Ok(number) => {
                    self.resources(number, filter.text_of("name"), place);
                    None
                }
                Err(error) => Some((error.to_string(), "repair it")),
            },
        };
        if let Some((error, help)) =
            failed.filter(|_| filter.text_of("name").is_some_and(is_our_name))
        {
            let place = self.sources.place(node);
            let finding = Finding::error("ecds-file", place, self.path(node));
            self.findings.push(finding.says(error).help(help));
        }
    }

    /// The filters of an ECDS file; the one of that name, if there is a name.
    fn resources(&mut self, file: usize, name: Option<&str>, place: Option<(Node, Node)>) {
        let documents = self.documents.clone();
        let own = documents.iter().filter(|own| own.file == file);
        let resources = own.filter_map(|own| own.get("resources"));
        for resource in resources.flat_map(Node::items) {
            if resource.text_of("name") == name
                && let Some(typed) = resource.get("typed_config")
            {
                self.filter(typed, place.clone());
            }
        }
    }

    /// The way to a value: inside a configuration, or from the top of its document.
    fn path(&self, node: &Node) -> String {
        path_to(&self.plugins, &self.documents, &self.inner, node)
    }

    fn judge(&mut self) {
        let path = |node: &Node| path_to(&self.plugins, &self.documents, &self.inner, node);
        let mut vm = Vm::new(&self.sources, &path);
        for filter in &self.filters {
            let Some(plugin) = self.plugins.get(filter.plugin) else {
                continue;
            };
            vm.judge(&filter.config, plugin);
            if let Some((manager, entry)) = &filter.place {
                vm.manager(manager, entry, std::slice::from_ref(plugin));
            }
        }
        self.judge_clusters(&mut vm, &path);
        self.judge_tags(&mut vm);
        self.judge_kubernetes(&mut vm, &path);
        let findings = vm.findings;
        self.findings.extend(findings);
    }

    /// The clusters of everything that was read, and whether there can be no others.
    fn clusters(&self) -> (Vec<Cluster>, bool) {
        let all = || self.documents.iter().chain(&self.inner);
        let mut clusters: Vec<Cluster> = all().flat_map(envoy::clusters).collect();
        clusters.extend(self.documents.iter().flat_map(kubernetes::clusters));
        let bootstrap = all().any(|own| own.get("static_resources").is_some());
        let dynamic = all().any(envoy::has_dynamic_clusters);
        (clusters, bootstrap && !dynamic)
    }

    fn judge_clusters(&self, vm: &mut Vm<'_>, path: &dyn Fn(&Node) -> String) {
        let (clusters, is_all) = self.clusters();
        for plugin in &self.plugins {
            if plugin.holder != "WasmPlugin" {
                vm.clusters(plugin, &clusters, is_all);
                continue;
            }
            for backend in &plugin.plan.backends {
                let Some(wanted) = &backend.cluster else {
                    continue;
                };
                let name = wanted.text().unwrap_or_default();
                if let Some(own) = clusters.iter().find(|own| own.name == name) {
                    vm.connect(own, &backend.shortest);
                    continue;
                }
                let found = kubernetes::mesh_cluster(&self.sources, wanted, &self.documents, path);
                vm.findings.extend(found);
                if let Some(own) = kubernetes::destination(name, &self.documents) {
                    vm.connect(&own, &backend.shortest);
                }
            }
        }
    }

    fn judge_tags(&self, vm: &mut Vm<'_>) {
        for document in self.documents.iter().chain(&self.inner) {
            let of_filter = |own: &Filter| {
                own.place
                    .as_ref()
                    .filter(|(manager, _)| manager.file == document.file)
                    .map(|(_, entry)| entry.clone())
            };
            if document.get("static_resources").is_none() {
                continue;
            }
            let fallback = self.filters.iter().find_map(of_filter);
            let bootstrap = self.inner.iter().any(|own| own.span == document.span);
            if let Some(fallback) = fallback.or_else(|| bootstrap.then(|| document.clone())) {
                vm.stats_tags(document, &fallback);
            }
        }
    }

    fn judge_kubernetes(&self, vm: &mut Vm<'_>, path: &dyn Fn(&Node) -> String) {
        let budget = |plugin: &Plugin| plugin.plan.largest_budget(None, None);
        let budgets = self.plugins.iter().filter_map(budget);
        let budget: Option<Budget> = budgets.max_by_key(|budget| budget.duration);
        let around = Around {
            plugins: &self.plugins,
            budget,
            path,
        };
        for document in &self.documents {
            kubernetes::judge(vm, &self.sources, document, &around);
            let Some(spec) = document.get("spec") else {
                continue;
            };
            match kubernetes::kind(document) {
                Some("WasmPlugin") => {
                    let open = spec.get("failStrategy");
                    let open = open.filter(|own| own.text() == Some("FAIL_OPEN"));
                    self.fail_open(vm, open, document);
                }
                Some("EnvoyExtensionPolicy") => {
                    for wasm in spec.get("wasm").map_or(&[][..], Node::items) {
                        let open = wasm.get("failOpen").filter(|own| own.is_true());
                        self.fail_open(vm, open, wasm);
                    }
                }
                _ => {}
            }
        }
    }

    /// Judges a resource's word for a VM that fails open, for the configuration inside it.
    fn fail_open(&self, vm: &mut Vm<'_>, open: Option<&Node>, holder: &Node) {
        let Some(open) = open else { return };
        let inside = |plugin: &&Plugin| {
            let tree = &plugin.tree;
            tree.file == holder.file
                && holder.span.start <= tree.span.start
                && tree.span.end <= holder.span.end
        };
        if let Some(plugin) = self.plugins.iter().find(inside) {
            vm.fail_open(open, plugin);
        }
    }
}

/// Writes the way to a value as an operator would.
fn path_to(plugins: &[Plugin], documents: &[Node], inner: &[Node], node: &Node) -> String {
    let trees = plugins.iter().map(|plugin| &plugin.tree);
    let mut trees = trees.chain(inner).chain(documents);
    let mut path = String::new();
    if trees.any(|tree| tree.file == node.file && walk(tree, node, &mut path)) {
        path
    } else {
        String::new()
    }
}

fn walk(tree: &Node, wanted: &Node, path: &mut String) -> bool {
    if tree.span == wanted.span {
        return true;
    }
    let length = path.len();
    for (key, value) in tree.entries() {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.text().unwrap_or_default());
        if key.span == wanted.span || walk(value, wanted, path) {
            return true;
        }
        path.truncate(length);
    }
    for (index, item) in tree.items().iter().enumerate() {
        path.push_str(&format!("[{index}]"));
        if walk(item, wanted, path) {
            return true;
        }
        path.truncate(length);
    }
    false
}

fn is_wasm(node: &Node) -> bool {
    node.is_type(".filters.http.wasm.v3.Wasm")
}

/// `quota_gate`, `quota-gate`, `istio-system.quota-gate`, `oci://…/quota-gate:1.0`.
fn is_our_name(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    letters.contains("quotagate")
}

fn mentions_us(text: &str) -> bool {
    ["\"default_policy\"", "\"host_budget\"", "\"policies\""]
        .iter()
        .any(|key| text.contains(key))
}

const BARE: &str = "plugin configuration";
