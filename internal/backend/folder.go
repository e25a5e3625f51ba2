package backend

import "strconv"

// RunFolder is the folder of outputs in which the n-th saving node of a run writes, on servers that can't be told apart
// and share their outputs. It comes back in whatever holds the prompt, and is taken out there.
func RunFolder(runID string, n int) string { return RunFolders(runID) + strconv.Itoa(n) }

// RunFolders is how all folders of a run begin.
func RunFolders(runID string) string { return "comfyume-" + runID + "-" }
