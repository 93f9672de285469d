// Judges an image by an exported file, model.onnx or model.xml, with OpenVINO alone:
//   g++ -std=c++17 predict.cpp -I<openvino>/include -L<openvino>/libs -l:libopenvino.so.<version> -o predict
//   ./predict model.onnx image.ppm
// A camera's RGB buffer takes the place of the PPM picture that is read here.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: predict MODEL IMAGE.ppm\n";
        return 2;
    }
    std::ifstream file(arguments[2], std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, largest = 0;
    if (!(file >> kind >> width >> height >> largest) || kind != "P6" || largest != 255) {
        std::cerr << arguments[2] << " is no binary PPM picture of 8 bits\n";
        return 2;
    }
    file.get();
    std::vector<std::uint8_t> pixels(width * height * 3);
    file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));

    ov::Core core;
    auto graph = core.read_model(arguments[1]);
    // with any number of images OpenVINO 2026.4 answers wrongly, the first time that it sees a number
    graph->reshape({{"pixels", ov::PartialShape{1, -1, -1, 3}}});
    auto model = core.compile_model(graph, "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    request.set_tensor("pixels", ov::Tensor(ov::element::u8, {1, height, width, 3}, pixels.data()));
    request.infer();
    const float score = request.get_tensor("score").data<float>()[0];
    const bool nok = request.get_tensor("nok").data<bool>()[0];
    std::cout.precision(9);
    std::cout << score << "\t" << (nok ? "NOK" : "OK") << "\n";
}
