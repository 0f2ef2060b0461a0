"""The text that the deflated headers of versions 2.x refer back to. Files depend on every character of it."""

from __future__ import annotations

FIRST_DICTIONARY = (
    # Sound tracks, whose parameters are NUT files in base64.
    b'"parameters":"bnV0L211bHRpbWVkaWEgY29udGFpbmVyAE5NelYfXwStVAMBgf9/AQGC2ETAAAYAAAAAAAGgAAIBASgBACkAAQIAAgEBfyECgX9S'
    b"IQGIfyEBj3/AAAYAAAAAAAEGAwAAAQQAAAG2Av/6Av/7Av/8Av/9pZIl+U5TEUBb8vnbGgABBP8AAAAADoLYRAAAAhIggthEAQGmrutPkmqLaLWW"
    b"unggAAAAAAEHZW5jb2RlcgINTGF2ZjYyLjEyLjEwMmqyg0NOS+St7spFaQYAAAAAAAAAAggAAAAAAAAAAE5Y3WcvI+ZOEAABCwMAAAAAAAAAGRdF"
    b'x3Y=","tags":{"creation_time":"20","title":"","language":"und"}},{"language":"eng"}}],"audio":[{"codec":"vorbis",'
    b'"codec":"opus","codec":"mp3","codec":"aac","time_base":[1,44100],"sample_rate":44100,"layout":"mono",'
    b'"time_base":[1,48000],"sample_rate":48000,"layout":"stereo",'
    # 1D tokens.
    b'"window_tokens":{"name":"onedva-nano-4x16x16","weights_sha256":'
    b'"66297624d116c747cf54a110617e63f3ac9a5032de0c2fe7a01016c034fda2af","window":[4,8,8],"most":64,"levels":[8,8,8,5,5,5]}'
    # Rates, times, sizes and colours.
    b'"rate":null,"rate":[60,1],"rate":[24000,1001],"rate":[24,1],"rate":[30000,1001],"rate":[30,1],'
    b'"time_base":[1,90000],"frame_ticks":3000,"time_base":[1,1000],"frame_ticks":33,"time_base":[1,12288],'
    b'"frame_ticks":512,"time_base":[1,12800],"time_base":[1,30000],"frame_ticks":1001,"time_base":[1,15360],'
    b'{"width":1080,"height":1920,"width":1920,"height":1080,"coded_width":1920,"coded_height":1088,'
    b'"width":1280,"height":720,"coded_width":1280,"coded_height":720,"width":854,"height":480,"coded_width":864,'
    b'"coded_height":480,"width":640,"height":360,"coded_width":640,"coded_height":368,'
    b'"primaries":9,"transfer":16,"matrix":9},"range":0,"primaries":6,"transfer":6,"matrix":6},'
    b'"range":1,"primaries":1,"transfer":1,"matrix":1},"rotation":-90,"rotation":90,"rotation":180,'
    # Whole headers of the models.
    b'"model":{"name":"onevae-nano-4x8x8","weights_sha256":'
    b'"2bf891d84d66f5e5e76a80d4a8b8af503f621d924ebd209cb208f1b9ef666144","stride":[4,8,8],"levels":[8,8,8,5,5,5]},'
    b'"tokens":1,"tokens":4,"tokens":2,"gop_latents":30,"chunk_latents":4,"audio":[],"writer":"vtok 0.2.0",'
    b'"prior_sha256":"08248bb4750a34fc8e226ee248a814bc9076caac436fccf24a28621cca3fd1c4"}'
    b'{"width":512,"height":256,"coded_width":512,"coded_height":256,"rate":[25,1],"time_base":[1,25],"frame_ticks":1,'
    b'"sar":[1,1],"color":{"range":1,"primaries":2,"transfer":2,"matrix":2},"rotation":0,'
    b'"model":{"name":"onevae-nano-4x16x16","weights_sha256":'
    b'"d23e2484357d636b6352d54ada0291fdb5c41cb5d6e025798b3ba35c19d9edff","stride":[4,16,16],"levels":[8,8,8,5,5,5],'
    b'"first_grid":[2,2]},"tokens":2,"gop_latents":25,"chunk_latents":4,"audio":[],"writer":"vtok 0.2.0",'
    b'"prior_sha256":"f799883bb26b21f45b1de083c41f9cd0c87461a2ce5b01c887e31651e7966bf3"}'
)
"""The text of version 2.0: ASCII, as the JSON of headers has it; what is most frequent stands last, since near
references are shorter."""
SECOND_DICTIONARY = (
    # The prior that replaced one of those above.
    b'"prior_sha256":"8e21f0b3cc34974b2b5e6986b82a2594d9a6a3d95cd023003c84267b0b1ccf94"}' + FIRST_DICTIONARY
)
"""The text of version 2.1, whose end is that of version 2.0."""
HEADER_DICTIONARY = (
    # The prior that replaced the other one.
    b'"prior_sha256":"4452de56114b1c3f38d2ce59eb8740474a68eeb4b4c6a9a177d1db7fc131acb5"}' + SECOND_DICTIONARY
)
"""The text of version 2.2, whose end is that of version 2.1. What is added must stand in front."""
