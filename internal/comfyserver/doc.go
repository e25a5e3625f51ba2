// Package comfyserver answers as the ComfyUI server of the person who asks: the protocol of one private server,
// over the studio's shared queue, files and back ends.
//
// The person comes in the request's context; their paths are a real server's, without any prefix (the door takes it
// off). routes.go is the whole surface, deps.go is all that is asked of others, and package room is the live side:
// sockets, frames, and what a browser missed.
//
// What differs from a real server, because people share ours, or because theirs fails them:
//
//   - Answers that would be empty are {}, and every error is JSON: {"error": {…}, "node_errors": {}}.
//   - /users makes no accounts; /free and /internal tell nothing about the machine; paths are neutral.
//   - Queue, history, counts, files, lists of input files and logs are the person's own.
//   - Interrupting without an id stops the person's own running jobs and nobody else's.
package comfyserver
