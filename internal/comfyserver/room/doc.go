// Package room keeps the live side of a person's ComfyUI server: the sockets of their sessions, what their runs
// last said, and what they are told when.
//
// There is one room per person who has a socket open or a run on its way. It subscribes to that person's events and
// turns them into ComfyUI's frames:
//
//   - A frame is encoded once and shared by all sockets it goes to. Nothing is written while a lock is held.
//   - A socket costs one sleeping reader; a writer runs only while there is something to write, and what waits goes
//     out in one write call.
//   - No frame of a run leaves before the answer to its POST has been flushed (Hold).
//   - History is readable before the end frames: they are made from the announcement that follows the commit. The order
//     is the run's end, then status, then executing with node null.
//   - A status frame goes out only when the person's own numbers may have changed, and only the latest of several; of many
//     jobs that come one after another a moment later.
//   - Per run the latest frame of each kind is remembered until the run is over and seen. A socket that comes back
//     is given them again (replay.go says when).
//   - A just finished job stays in the shown queue until its status frame has been written (Lingering).
package room
