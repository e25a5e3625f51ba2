// Package catalog knows what the back ends can run: their node classes and models, merged into one description that
// is cached encoded, survives restarts, and shows each person their own files where nodes read uploads. It
// validates graphs against that description with ComfyUI's own error bodies, so that a wrong graph is answered
// at once although every GPU sleeps.
package catalog
