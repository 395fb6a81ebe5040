/** The colour of each kind of stage, the same in the timeline and the table. */
export const STAGE_COLOURS = `
  [data-kind="download"], [data-kind="load"], [data-kind="save"] { --color: var(--crystools-host); }
  [data-kind="text_encode"], [data-kind="image_encode"] { --color: var(--crystools-duty); }
  [data-kind="denoise"] { --color: var(--crystools-hbm); }
  [data-kind="vae_encode"], [data-kind="vae_decode"] { --color: var(--crystools-tensorcore); }
`;
