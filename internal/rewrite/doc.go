// Package rewrite is the one place where a person's graph becomes a back end's and a back end's report becomes the
// person's again.
//
// Out: values of file inputs become content-addressed names of files that are uploaded before the run, and output
// nodes get an undeclared input that holds a keyed hash of the owner. ComfyUI's cache keys are a node's class and
// inputs, so a like graph of another person would otherwise be given the first one's file, name and workflow.
// With it the same person's graph is wholly cached, and another's runs its output nodes again.
//
// In: the run's id becomes the person's prompt id, file names become theirs, and the hash is taken out wherever a
// report shows inputs. The graph that a person sees again is the graph that they sent.
package rewrite
