// Package oneshot is how a whole job travels in one HTTP request: the graph and its inputs go in, progress, the result
// and every output come back in the answer. So no second request has to find the container that has the job, and a
// balancer may lead each request where it likes.
//
// Both directions are streams of records behind the line "comfyume-run/1\n". A record is
//
//	kind (1 byte) · length (4 bytes, big endian) · CRC-32C of kind and payload (4 bytes, big endian) · payload
//
// A request is a header record (JSON), then for each input that is sent along an opening (JSON: its number), its bytes
// in data records and a closing with its size and SHA-256, and an end record. An answer begins with a hello (JSON: who
// runs it, since when). Then follow, as they come: that the prompt was accepted, frames of the run, files in the same
// form as inputs, the result, and an end record that says how many files there are. An answer without its end record
// is not whole, whatever else came. Between them beats say at least every 2 s that the other side lives, so that a
// silent stream is a dead one and no proxy cuts it for its silence.
//
// Frames and files have numbers. A caller who was cut off asks for the rest with GET /runs/{id}, by the number of the
// next frame and the list of files that it has; a container never runs a run id twice, whoever posts it again.
//
//	POST   /run        a job; its answer is the stream
//	GET    /runs/{id}  the stream of a job that runs or is over: ?from=FRAME&have=FILE,FILE
//	DELETE /runs/{id}  interrupts it
//	GET    /info       what the ComfyUI can run, as JSON; ?hash= of what the caller knows already
//	GET    /web        ?path= a web file of a custom node
//	POST   /free       gives up memory: {"unload_models":true,"free_memory":true}
//
// Where both sides have one storage (package handover), files can go by it in either direction: a request then names where
// an input is, and its size and SHA-256, and an answer does so with outputs. What can't be had there goes over the wire.
//
// Each side takes the other for hostile: sizes, counts and names are bounded and checked, and names that come from
// outside never become names of files here.
package oneshot
