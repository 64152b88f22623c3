// What a study is called. The server knows pseudonyms alone; this tab also knows the names of the files that it sent,
// and forgets them with the tab.

const sent = new Map();

export const remember = (id, name) => sent.set(id, name);

export const titleOf = (job) => sent.get(job.id) ?? (job.study || job.id);
