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
  /** When a workflow has been opened. */
  afterConfigureGraph(): void;
  /** Recent versions: what the nodes of a workflow, just opened, answered last, by node. */
  onNodeOutputsUpdated(outputs: Record<string, NodeOutput>): void;
}

/** What a node's function gave as `ui`. */
export interface NodeOutput {
  text?: string[];
}

/** What a node shows above itself; ComfyUI calls a function for it. */
export interface Badge {
  text: string;
  fgColor: string;
  bgColor: string;
  height: number;
  getWidth(canvas: CanvasRenderingContext2D): number;
  draw(canvas: CanvasRenderingContext2D, x: number, y: number): void;
}

/** A socket at which a link may end. */
export interface NodeInput {
  name: string;
  type: string | number;
  link: number | null;
  shape?: number;
  tooltip?: string;
  localized_name?: string;
}

/** A node on the canvas. */
export interface GraphNode {
  id?: number | string;
  inputs?: NodeInput[];
  addInput?(name: string, type: string | number, more: Partial<NodeInput>): NodeInput;
  removeInput?(slot: number): void;
  onConnectionsChange?(...change: unknown[]): void;
  comfyClass?: string;
  widgets?: Widget[];
  pos?: [x: number, y: number];
  flags?: { collapsed?: boolean };
  /** Null once the node has been removed. */
  graph?: Graph | null;
  /** What a node that stands for a subgraph has in it. */
  subgraph?: Graph;
  badges?: (Badge | (() => Badge))[];
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

export interface Widget {
  name: string;
  value: unknown;
  callback?(value: unknown, canvas?: Canvas, node?: GraphNode): void;
  /** What a prompt has in place of `value`. */
  serializeValue?: Function;
}

/** A node in the form of ComfyUI's API. */
export interface PromptNode {
  class_type?: string;
}

export interface Graph {
  /** The workflow's, kept in its file. */
  id?: string;
  nodes?: GraphNode[];
  getNodeById(id: string): GraphNode | null | undefined;
}

export interface Canvas {
  /** The graph that is seen: a subgraph, where one is open. */
  graph?: Graph | null;
  ds?: { scale: number; offset?: [x: number, y: number] };
  canvas?: HTMLCanvasElement;
  /** What happens between the two is one step to undo. */
  emitBeforeChange?(): void;
  emitAfterChange?(): void;
  setGraph?(graph: Graph): void;
  centerOnNode?(node: GraphNode): void;
  setDirty?(foreground: boolean, background: boolean): void;
}

export interface ToastMessage {
  severity: "info" | "warn" | "error";
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
  workflow?: {
    activeWorkflow?: { filename?: string; path?: string } | null;
    /** One that is saved or open, by its path in the user's folder. */
    getWorkflowByPath?(path: string): object | null | undefined;
  };
  sidebarTab?: { activeSidebarTabId?: string | null; toggleSidebarTab?(id: string): void };
}

export interface App {
  registerExtension(extension: Extension): void;
  /** Opens the graph: by a name that no other workflow has, or with null, as a new one. */
  loadGraphData?(graph: object, clean: boolean, restoreView: boolean, name: string | null): Promise<unknown>;
  menu?: { settingsGroup?: { element?: HTMLElement } };
  /** In older versions `graph`. */
  rootGraph?: Graph;
  graph?: Graph;
  canvas?: Canvas;
  /** The workflow that is open as its prompt: `output` is in the form of ComfyUI's API. */
  graphToPrompt?(): Promise<{ output: Record<string, PromptNode> }>;
  extensionManager?: ExtensionManager;
}

export interface Api {
  /** The address of a route that an extension added, behind whatever proxy ComfyUI is. */
  apiURL(route: string): string;
  /** Asks for such a route, as ComfyUI's page does. */
  fetchApi(route: string, options: RequestInit): Promise<Response>;
  /** What ComfyUI's server knows this page by, once they are connected. */
  clientId?: string;
  /**
   * `reconnected`: the server has answered again after it had not. `status` has the length of its queue, or null
   * where it cannot be reached.
   */
  addEventListener?(
    type: "reconnected" | "status" | "graphChanged",
    listener: (event: CustomEvent<{ exec_info?: { queue_remaining?: number } } | null>) => void,
  ): void;
}
