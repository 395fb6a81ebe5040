/**
 * The parts of ComfyUI's frontend that are used here. Only what is not optional is relied upon: what may be
 * missing in some version is looked for before it is used.
 */

export interface SettingDefinition {
  id: string;
  name: string;
  category: string[];
  tooltip?: string;
  defaultValue: null;
  /** Renders the setting's control. ComfyUI would keep what is given to `setter`, on its server. */
  type: (name: string, setter: (value: unknown) => void, value: unknown) => HTMLElement;
}

/** A node as `/object_info` has it. */
export interface NodeDefinition {
  category?: string;
  output?: (string | string[])[];
  output_name?: string[];
}

export interface Extension {
  name: string;
  settings: SettingDefinition[];
  setup(): void;
  /** Is given all nodes before any is registered, and may change them. */
  addCustomNodeDefs(definitions: Record<string, NodeDefinition>): void;
  nodeCreated(node: GraphNode): void;
  /** Recent versions: what the nodes of a workflow, just opened, answered last, by node. */
  onNodeOutputsUpdated(outputs: Record<string, NodeOutput>): void;
}

/** What a node's function gave as `ui`. */
export interface NodeOutput {
  text?: string[];
}

/** A node on the canvas. */
export interface GraphNode {
  comfyClass?: string;
  size: [width: number, height: number];
  computeSize?(): [width: number, height: number];
  setSize?(size: [width: number, height: number]): void;
  onExecuted?(output: NodeOutput): void;
  addDOMWidget?(
    name: string,
    type: string,
    element: HTMLElement,
    options: { serialize: boolean; getMinHeight(): number },
  ): { serialize?: boolean };
}

export interface Graph {
  /** The workflow's, kept in its file. */
  id?: string;
  getNodeById(id: string): GraphNode | null | undefined;
}

export interface ToastMessage {
  severity: "warn" | "error";
  summary: string;
  detail: string;
  /** Milliseconds until it goes by itself; without it stays until it is closed. */
  life?: number;
}

export interface SidebarTab {
  id: string;
  icon: string;
  title: string;
  tooltip: string;
  type: "custom";
  render(container: HTMLElement): void;
  destroy(): void;
}

export interface ExtensionManager {
  focusMode?: boolean;
  toast?: { add(message: ToastMessage): void };
  registerSidebarTab?(tab: SidebarTab): void;
  workflow?: { activeWorkflow?: { filename?: string } | null };
  sidebarTab?: { activeSidebarTabId?: string | null; toggleSidebarTab?(id: string): void };
}

export interface App {
  registerExtension(extension: Extension): void;
  menu?: { settingsGroup?: { element?: HTMLElement } };
  /** In older versions `graph`. */
  rootGraph?: Graph;
  graph?: Graph;
  extensionManager?: ExtensionManager;
}

export interface Api {
  /** The address of a route that an extension added, behind whatever proxy ComfyUI is. */
  apiURL(route: string): string;
  /** Asks for such a route, as ComfyUI's page does. */
  fetchApi(route: string, options: RequestInit): Promise<Response>;
  /** What ComfyUI's server knows this page by, once they are connected. */
  clientId?: string;
  /** The server has answered again after it had not. */
  addEventListener?(type: "reconnected", listener: () => void): void;
}
